//! The door from outside: HTTP/1.1 over TLS 1.3 over the daemon's Unix socket.
//!
//! Each request has a connection of its own: commands are short, and a stream that is dropped (Ctrl-C in a
//! chat) then ends its request on the daemon's side too. No address is ever resolved; there is no TCP here.

mod tolerant;
mod upload;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloister_wire::admin::{ApiError, ErrorCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use crate::error::{failed, unavailable};
use crate::identity;
use tolerant::Tolerant;
pub(crate) use upload::Upload;

/// The name in the daemon's certificate.
const SERVER_NAME: &str = "cloister.local";

/// For connecting and shaking hands; answers may take as long as they take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Request bodies: whole, or streamed from a file.
type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is sent along with a method and a path.
struct Content {
    media_type: &'static str,
    body: Body,
}

/// Speaks to one daemon as one user.
pub(crate) struct Client {
    socket: PathBuf,
    identity: PathBuf,
    connector: TlsConnector,
}

/// A successful answer: as a type, for people, and as it came, for `--json`.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    /// Understood.
    pub(crate) value: T,
    raw: Bytes,
}

impl<T> Reply<T> {
    /// As it came; parsed only when asked for, since an exported adapter is large.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap_or(Value::Null)
    }
}

impl Client {
    /// Reads the identity folder; nothing is connected yet.
    pub(crate) fn new(socket: &Path, folder: &Path) -> Result<Self, ApiError> {
        let connector = TlsConnector::from(Arc::new(identity::tls_config(folder)?));
        Ok(Self { socket: socket.into(), identity: folder.into(), connector })
    }

    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, ApiError> {
        read_reply(self.send(Method::GET, path, empty()).await?).await
    }

    /// Asks for something without saying more.
    pub(crate) async fn post_empty<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, ApiError> {
        read_reply(self.send(Method::POST, path, empty()).await?).await
    }

    /// Asks for something.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Reply<T>, ApiError> {
        read_reply(self.send(Method::POST, path, json(body)?).await?).await
    }

    /// Removes something.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, ApiError> {
        read_reply(self.send(Method::DELETE, path, empty()).await?).await
    }

    /// Sends a file, in pieces.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        upload: Upload,
    ) -> Result<Reply<T>, ApiError> {
        let content = Content { media_type: "application/octet-stream", body: upload.into_body().await? };
        read_reply(self.send(method, path, content).await?).await
    }

    /// Reads an answer line by line as it comes.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, ApiError> {
        Ok(Lines::new(self.send(Method::GET, path, empty()).await?.into_body()))
    }

    /// Asks for something and reads the answer line by line as it comes.
    pub(crate) async fn post_lines(&self, path: &str, body: &impl Serialize) -> Result<Lines, ApiError> {
        Ok(Lines::new(self.send(Method::POST, path, json(body)?).await?.into_body()))
    }

    /// Whether the daemon can be reached and takes the certificate; for `cloister doctor`.
    pub(crate) async fn handshake(&self) -> Result<(), ApiError> {
        self.connect().await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, content: Content) -> Result<Response<Incoming>, ApiError> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.interrupted(&error))?;
        // The connection's own error reaches us through the request or its body.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, SERVER_NAME)
            .header(header::CONTENT_TYPE, content.media_type)
            .body(content.body)
            .map_err(|error| failed(format!("the request cannot be made: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| self.interrupted(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(read_error(response).await) }
    }

    async fn connect(&self) -> Result<TlsStream<Tolerant<UnixStream>>, ApiError> {
        let attempt = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
            let name = ServerName::try_from(SERVER_NAME).map_err(|error| failed(error.to_string()))?;
            self.connector.connect(name, Tolerant::new(stream)).await.map_err(|error| self.interrupted(&error))
        };
        tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(|_| {
            Err(unavailable(format!(
                "the daemon did not shake hands on `{}` within {} s",
                self.socket.display(),
                CONNECT_TIMEOUT.as_secs()
            ))
            .remedy("see `journalctl -u cloisterd`; restart it if it hangs"))
        })
    }

    fn unreachable(&self, error: &io::Error) -> ApiError {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => unavailable(format!("there is no socket `{socket}`: is cloisterd running?"))
                .remedy("`systemctl start cloisterd`, or name the right socket with --socket or $CLOISTER_SOCKET"),
            io::ErrorKind::ConnectionRefused => {
                unavailable(format!("nobody listens on `{socket}`: is cloisterd running?"))
                    .remedy("`systemctl start cloisterd`, then see `journalctl -u cloisterd`")
            }
            io::ErrorKind::PermissionDenied => unavailable(format!("you may not open the socket `{socket}`"))
                .remedy("join the socket's group (`sudo usermod -aG cloister $USER`, then log in again)"),
            _ => unavailable(format!("cannot connect to `{socket}`: {error}")),
        }
    }

    /// What a broken connection means; TLS's own reason, where it gave one, says more than hyper's.
    fn interrupted(&self, error: &(dyn Error + 'static)) -> ApiError {
        let folder = self.identity.display();
        match tls_error(error) {
            Some(rustls::Error::AlertReceived(alert)) => {
                unavailable(format!("the daemon refused the certificate in `{folder}` ({alert:?})")).remedy(
                    "it may have expired, been revoked, be bound to another uid or belong to another appliance: \
                     run `cloister doctor`",
                )
            }
            Some(rustls::Error::InvalidCertificate(reason)) => unavailable(format!(
                "the daemon's certificate does not come from the CA in `{folder}/{}` ({reason})",
                identity::CA
            ))
            .remedy("use the identity folder that this appliance gave you"),
            Some(other) => unavailable(format!("no TLS with the daemon on `{}`: {other}", self.socket.display()))
                .remedy("is that socket cloisterd's?"),
            None => unavailable(format!("the daemon closed the connection before it answered ({})", innermost(error)))
                .remedy("it may have stopped, or not know your uid: see `journalctl -u cloisterd`"),
        }
    }
}

/// A path under `/admin/v1`; each segment is escaped, so that no name can change the route.
pub(crate) fn admin(segments: &[&str]) -> String {
    segments.iter().fold(String::from("/admin/v1"), |path, segment| path + "/" + &escape(segment))
}

fn escape(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    segment.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The lines of an answer that comes little by little.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    searched: usize,
}

impl Lines {
    fn new(body: Incoming) -> Self {
        Self { body, buffer: Vec::new(), searched: 0 }
    }

    /// The next line without its end; `None` at the end. A last line without a newline counts.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=self.searched + at).collect();
                self.searched = 0;
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(cut_off(&error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(std::mem::take(&mut self.buffer)));
                }
            }
        }
    }
}

fn empty() -> Content {
    whole(Bytes::new())
}

fn whole(bytes: Bytes) -> Content {
    Content { media_type: "application/json", body: Full::new(bytes).map_err(|never| match never {}).boxed_unsync() }
}

/// A JSON body, wiped after it was sent: it may hold a passphrase.
fn json(body: &impl Serialize) -> Result<Content, ApiError> {
    let text = serde_json::to_vec(body).map_err(|error| failed(format!("the request cannot be written: {error}")))?;
    Ok(whole(Bytes::from_owner(Zeroizing::new(text))))
}

async fn read_reply<T: DeserializeOwned>(response: Response<Incoming>) -> Result<Reply<T>, ApiError> {
    let body = response.into_body().collect().await.map_err(|error| cut_off(&error))?.to_bytes();
    // A success without a body reads as JSON's null.
    let raw = if body.is_empty() { Bytes::from_static(b"null") } else { body };
    let value = serde_json::from_slice(&raw).map_err(|error| {
        failed(format!("the daemon's answer is not understood: {error}"))
            .remedy("install `cloister` and `cloisterd` of the same version")
    })?;
    Ok(Reply { value, raw })
}

/// The daemon's own error, an OpenAI one (under `/v1`), or what the status alone says.
async fn read_error(response: Response<Incoming>) -> ApiError {
    let status = response.status();
    let bytes = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    parse_error(status.as_u16(), &bytes)
}

fn parse_error(status: u16, body: &[u8]) -> ApiError {
    if let Ok(error) = serde_json::from_slice::<ApiError>(body) {
        return error;
    }
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    openai_error(code_of(status), &value).unwrap_or_else(|| {
        ApiError::new(code_of(status), format!("the daemon answered with HTTP status {status} and no reason"))
            .remedy("install `cloister` and `cloisterd` of the same version")
    })
}

/// Reads `{"error": {"message": …}}`, with the rule and the remedy where the daemon adds them.
pub(crate) fn openai_error(code: ErrorCode, body: &Value) -> Option<ApiError> {
    let error = body.get("error")?;
    let text = |key: &str| error.get(key).and_then(Value::as_str).map(String::from);
    Some(ApiError { code, message: text("message")?, rule: text("rule"), remedy: text("remedy") })
}

fn code_of(status: u16) -> ErrorCode {
    match status {
        401 | 403 => ErrorCode::Denied,
        404 => ErrorCode::NotFound,
        409 => ErrorCode::Conflict,
        429 | 502..=504 => ErrorCode::Unavailable,
        400..=499 => ErrorCode::Invalid,
        _ => ErrorCode::Failed,
    }
}

fn cut_off(error: &hyper::Error) -> ApiError {
    unavailable(format!("the daemon's answer broke off ({})", innermost(error))).remedy("see `journalctl -u cloisterd`")
}

/// TLS's own error, however deep: `io::Error` hides what it wraps from `source()`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a dyn Error {
    let mut error: &dyn Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
pub(crate) mod door;
#[cfg(test)]
mod tests;
