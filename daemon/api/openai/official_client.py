"""Talks to the door with OpenAI's client, as the README tells users to. Run by openai/tests.rs."""

import ssl
import sys

import httpx
import openai

socket, identity = sys.argv[1:]
context = ssl.create_default_context(cafile=f"{identity}/ca.pem")
context.load_cert_chain(f"{identity}/certificate.pem", f"{identity}/key.pem")
transport = httpx.HTTPTransport(uds=socket, verify=context)
client = openai.OpenAI(
    base_url="https://localhost/v1", api_key="unused", max_retries=0, http_client=httpx.Client(transport=transport)
)


def refused(kind, **request):
    try:
        client.chat.completions.create(messages=hello, **request)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


hello = [{"role": "user", "content": "hi"}]

assert [model.id for model in client.models.list()] == ["notes"]
assert client.models.retrieve("notes").object == "model"

whole = client.chat.completions.create(model="notes", messages=hello, temperature=0, seed=1, stop=["END"])
assert whole.choices[0].message.content == "<user=hi> t=0", whole
assert whole.choices[0].finish_reason == "stop" and whole.usage.total_tokens == 7

# What the client itself made of the answer can be sent back as history.
history = hello + [whole.choices[0].message.model_dump(), {"role": "user", "content": [{"type": "text", "text": "?"}]}]
again = client.chat.completions.create(model="notes", messages=history, max_completion_tokens=5)
assert again.choices[0].message.content.startswith("<user=hiassistant="), again

chunks = list(
    client.chat.completions.create(
        model="notes", messages=hello, stream=True, stream_options={"include_usage": True}
    )
)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text == "<user=hi> t=1", text
assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].usage.completion_tokens == 2
assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"

assert client.completions.create(model="notes", prompt="once").choices[0].text == "<once> t=1"
assert "".join(c.choices[0].text for c in client.completions.create(model="notes", prompt="a", stream=True)) == "<a> t=1"

assert refused(openai.NotFoundError, model="nothing").code == "model_not_found"
assert refused(openai.BadRequestError, model="notes", n=2).param == "n"
assert "hipaa-two-people" in refused(openai.PermissionDeniedError, model="denied").message
assert refused(openai.RateLimitError, model="full").code == "rate_limit_exceeded"
assert refused(openai.InternalServerError, model="sealed").status_code == 503

try:
    list(client.chat.completions.create(model="late", messages=hello, stream=True))
    raise AssertionError("a stream that fails must raise")
except openai.APIError as error:
    assert "lost its GPU" in error.message

stream = client.chat.completions.create(model="endless", messages=hello, stream=True)
next(iter(stream))
stream.close()

print("all well")
