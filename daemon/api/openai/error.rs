//! Failures in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` and a fitting status.
//!
//! What always holds: the official client's retries make sense. It repeats 409, 429 and 5xx by itself
//! unless `x-should-retry` says no, and a sealed vault does not open within its two seconds.

use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::{Reply, Response};

use cloister_wire::admin::{ApiError, ErrorCode};

use super::InferenceError;
use crate::api::body::BodyError;

/// A failure, ready to be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    status: StatusCode,
    message: String,
    /// OpenAI's `type`.
    kind: &'static str,
    /// The parameter at fault.
    param: Option<String>,
    /// OpenAI's `code`, which programs match on.
    code: Option<&'static str>,
}

impl Failure {
    /// A request that is wrong, in its parameter `param` if it has come that far.
    pub(super) fn invalid(param: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.into(),
            kind: "invalid_request_error",
            param: param.map(str::to_owned),
            code: None,
        }
    }

    /// With OpenAI's `code`.
    pub(super) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// A path or a method that is not OpenAI's, or not here.
    pub(super) fn unknown_url(method: &Method, path: &str) -> Self {
        let known = ["/v1/models", "/v1/chat/completions", "/v1/completions"].contains(&path)
            || path.strip_prefix("/v1/models/").is_some_and(|id| !id.is_empty() && !id.contains('/'));
        let status = if known { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND };
        let message = format!("unknown request URL: {method} {path}");
        Self { status, ..Self::invalid(None, message) }.code("unknown_url")
    }

    /// The body, also as an event of a stream.
    pub(super) fn body(&self) -> serde_json::Value {
        serde_json::json!({
            "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code },
        })
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (kind, code, param) = match error.code {
            ErrorCode::Invalid => ("invalid_request_error", None, None),
            ErrorCode::NotFound => ("invalid_request_error", Some("model_not_found"), Some("model")),
            ErrorCode::Denied => ("permission_error", Some("policy_denied"), None),
            ErrorCode::Conflict => ("invalid_request_error", Some("conflict"), None),
            ErrorCode::Unavailable => ("server_error", Some("unavailable"), None),
            ErrorCode::Failed => ("server_error", None, None),
        };
        let mut message = error.message;
        if let Some(rule) = error.rule {
            message.push_str(&format!(" (rule `{rule}`)"));
        }
        if let Some(remedy) = error.remedy {
            message.push_str(&format!("; {remedy}"));
        }
        Self { status, message, kind, param: param.map(str::to_owned), code }
    }
}

impl From<InferenceError> for Failure {
    fn from(error: InferenceError) -> Self {
        match error {
            InferenceError::Api(error) => error.into(),
            InferenceError::QueueFull { .. } => Self {
                status: StatusCode::TOO_MANY_REQUESTS,
                message: error.to_string(),
                kind: "rate_limit_error",
                param: None,
                code: Some("rate_limit_exceeded"),
            },
        }
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Broken(_) | BodyError::Stalled => StatusCode::BAD_REQUEST,
        };
        Self { status, ..Self::invalid(None, error.to_string()) }
    }
}

impl Reply for Failure {
    fn into_response(self) -> Response {
        let mut response = warp::reply::json(&self.body()).into_response();
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            _ => {}
        }
        response
    }
}
