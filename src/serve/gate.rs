//! Who may ask: whoever knows the token, where there is one; and on a loopback address without one only pages of this machine.
//!
//! The second is about browsers. A page of some website may send requests to 127.0.0.1 if its own name is made to point there (DNS
//! rebinding); the name then stands in `Host`. No header allows other origins to read answers, and a body must be called
//! `application/json`, which a browser sends to another origin only with such a permission.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::refusal::Refusal;

/// What can be read without a token: the page, which asks for it, and whether the server is there.
const OPEN: [&str; 2] = ["/", "/health"];

/// Who is let in.
pub(super) struct Gate {
    token: Option<[u8; 32]>,
    local: bool,
}

impl Gate {
    /// `local`: the address is this machine's own.
    pub(super) fn new(token: Option<&str>, local: bool) -> Gate {
        Gate { token: token.map(digest), local }
    }

    fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = self.token else {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            if self.local && host.is_some_and(|host| !is_of_this_machine(host)) {
                let message = "this server is for its own machine, asked as localhost or 127.0.0.1; give it a token to reach it by another name";
                return Err(Refusal::new(StatusCode::FORBIDDEN, message).code("host"));
            }
            return Ok(());
        };
        if OPEN.contains(&path) {
            return Ok(());
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|given| given.as_bytes().strip_prefix(b"Bearer "));
        // Hashes take as long to compare wherever they differ, and differ everywhere.
        match given.is_some_and(|given| digest(given).iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b)) == 0) {
            true => Ok(()),
            false => {
                let message = "this server asks for a token: send the header \"Authorization: Bearer TOKEN\"";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"))
            }
        }
    }
}

fn digest(token: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(token).into()
}

fn is_of_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Lets a request pass or refuses it.
pub(super) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.admit(request.uri().path(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(gate: &Gate, path: &str, name: header::HeaderName, value: &str) -> bool {
        gate.admit(path, &HeaderMap::from_iter([(name, value.parse().unwrap())])).is_ok()
    }

    #[test]
    fn the_token_opens_all_and_nothing_else_does() {
        let gate = Gate::new(Some("secret"), true);
        let with = |path, value| admitted(&gate, path, header::AUTHORIZATION, value);
        assert!(with("/v1/models", "Bearer secret"));
        for wrong in ["Bearer secre", "Bearer secret ", "bearer secret", "Bearer ", "secret", "Basic secret"] {
            assert!(!with("/v1/models", wrong), "{wrong}");
        }
        assert!(
            with("/", "") && with("/health", "") && !with("/classify", "") && !with("//", "") && !with("/healthy", "")
        );
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_refused() {
        let (local, open) = (Gate::new(None, true), Gate::new(None, false));
        for good in ["localhost:8080", "127.0.0.1", "127.8.8.8:1", "[::1]:80", "LOCALHOST"] {
            assert!(admitted(&local, "/", header::HOST, good), "{good}");
        }
        for bad in ["evil.example:8080", "localhost.evil.example", "192.168.0.1", "[::2]", ""] {
            assert!(!admitted(&local, "/", header::HOST, bad), "{bad}");
            assert!(admitted(&open, "/", header::HOST, bad), "{bad}");
        }
    }
}
