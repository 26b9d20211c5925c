//! The pages of runs: one page of our own files (nothing is loaded from elsewhere) and the JSON that it
//! asks for. Runs are named by keys made of their folders; no path of a request reaches the file system.

mod api; // what is answered to the page
mod shelf; // what has been read of the runs, kept until it changes

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use shelf::Shelf;
use std::path::Path;
use std::sync::Arc;

/// Files of the page: path, type, text.
const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("assets/app.js")),
    ("/chart.js", "text/javascript; charset=utf-8", include_str!("assets/chart.js")),
    ("/parts.js", "text/javascript; charset=utf-8", include_str!("assets/parts.js")),
    ("/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// Headers of every answer: nothing from elsewhere is loaded or run, nobody frames the page, nothing is
/// kept by caches.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Answers for the runs in `root` and below.
pub fn router(root: &Path) -> Router {
    let shelf = Arc::new(Shelf::new(root));
    let mut router = Router::new();
    for (path, kind, text) in FILES {
        router =
            router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }));
    }
    router
        .route("/api/runs", get(api::runs))
        .route("/api/compare", get(api::compare))
        .route("/api/runs/{key}", get(api::run))
        .route("/api/runs/{key}/metrics", get(api::metrics))
        .route("/api/runs/{key}/samples", get(api::samples))
        .route("/api/runs/{key}/samples/{group}/images/{image}", get(api::image))
        .route("/api/runs/{key}/log", get(api::log))
        .fallback(api::nothing)
        .with_state(shelf)
        .layer(axum::middleware::map_response(with_headers))
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
