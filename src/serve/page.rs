//! The page on which a model can be tried: one file, no other resource, nothing kept.

use axum::http::header;
use axum::response::{IntoResponse, Response};

/// The whole page.
const PAGE: &str = include_str!("../../assets/serve/index.html");

/// `/`: framed by nobody, kept nowhere. What it may load and talk to, nothing but its own server, stands in its head.
pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, PAGE).into_response()
}
