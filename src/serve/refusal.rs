//! Why a request gets no answer: a status, one sentence, and the shape in which OpenAI's clients expect both.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use serde_json::{Value, json};

use crate::Error;

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    /// A name for programs.
    code: Option<&'static str>,
}

impl Refusal {
    /// The status with a sentence.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), param: None, code: None }
    }

    /// 400: the request cannot be used as it is.
    pub(super) fn bad(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    /// Nothing can be answered now, and later perhaps.
    pub(super) fn unavailable(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The time for an answer is over.
    pub(super) fn late(limit: std::time::Duration) -> Refusal {
        let seconds = limit.as_secs_f64();
        let message =
            format!("the answer was not complete within {seconds} seconds; ask for fewer tokens, or ask later");
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, message).code("timeout")
    }

    /// An error of the library: 400 where the user can mend it, else 500.
    pub(super) fn of(error: &Error) -> Refusal {
        match error {
            Error::Input(sentence) => Refusal::bad(sentence),
            other => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, other.to_string()),
        }
    }

    /// Names the field.
    pub(super) fn param(mut self, name: &str) -> Refusal {
        self.param = Some(name.into());
        self
    }

    /// Gives it a name for programs.
    pub(super) fn code(mut self, name: &'static str) -> Refusal {
        self.code = Some(name);
        self
    }

    /// The status.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// `{"error": {"message", "type", "param", "code"}}`.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let mut put =
            |name: http::HeaderName, value| response.headers_mut().insert(name, HeaderValue::from_static(value));
        match self.status {
            StatusCode::UNAUTHORIZED => drop(put(header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => drop(put(header::RETRY_AFTER, "2")),
            // What is left of the body is not read.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => drop(put(header::CONNECTION, "close")),
            _ => {}
        }
        response
    }
}
