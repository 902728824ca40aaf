//! What is answered where.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde::Deserialize;

use super::sample::Sample;
use super::{Shared, actions, guard, metrics, page};

/// Longest body of a request, in bytes: an action's few words.
const MAX_BODY_BYTES: usize = 4 * 1024;
/// A follower is good enough to serve reads while it has no more than this to apply, in bytes.
const READY_BEHIND_BYTES: u64 = 1024 * 1024;

type Shares = State<Arc<Shared>>;

/// All routes.
pub fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new();
    for asset in page::ASSETS {
        router = router.route(asset.path, get(|| async { asset.response() }));
    }
    router
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { guard::plain(StatusCode::OK, "alive\n") }))
        .route("/readyz", get(readyz))
        .route("/api/v1/status", get(status))
        .route("/api/v1/history", get(history))
        .route("/api/v1/events", get(events))
        .route("/api/v1/stream", get(stream_of_samples))
        .route("/api/v1/session", get(actions::session))
        .route("/api/v1/actions/{action}", post(actions::act))
        .fallback(|| async { guard::plain(StatusCode::NOT_FOUND, "there is nothing here\n") })
        .method_not_allowed_fallback(|| async {
            guard::plain(StatusCode::METHOD_NOT_ALLOWED, "this can only be read, or only be done\n")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::check))
        .with_state(shared)
}

fn latest(shared: &Shared) -> Arc<Sample> {
    Arc::clone(&shared.samples.borrow())
}

fn json(bytes: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], bytes).into_response()
}

async fn status(State(shared): Shares) -> Response {
    let sample = latest(&shared);
    if sample.json.is_empty() {
        return guard::plain(StatusCode::SERVICE_UNAVAILABLE, "no look at the node yet\n");
    }
    json(sample.json.clone())
}

#[derive(Debug, Deserialize)]
struct Range {
    range: Option<String>,
}

async fn history(State(shared): Shares, Query(query): Query<Range>) -> Response {
    let series = shared.history.lock().series(query.range.as_deref().unwrap_or("5m"));
    match series {
        Some(series) => Json(series).into_response(),
        None => guard::plain(StatusCode::BAD_REQUEST, "range is 5m, 1h or 6h\n"),
    }
}

#[derive(Debug, Deserialize)]
struct After {
    after: Option<u64>,
}

async fn events(State(shared): Shares, Query(query): Query<After>) -> Response {
    Json(shared.node.events.after(query.after.unwrap_or(0))).into_response()
}

async fn metrics_text(State(shared): Shares) -> Response {
    let sample = latest(&shared);
    match metrics::text(&sample) {
        Ok(text) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => guard::plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

/// Whether clients may be sent here.
async fn readyz(State(shared): Shares) -> Response {
    let sample = latest(&shared);
    let status = &sample.status;
    let ready = match (&status.link, status.verdict.state) {
        (_, "failed" | "loading" | "syncing" | "refusing-writes") => Err("this node cannot serve\n"),
        (Some(link), _) if !link.up => Err("the link to the leader is down\n"),
        (Some(link), _) if link.unapplied_bytes > READY_BEHIND_BYTES => Err("too far behind the leader\n"),
        _ => Ok(()),
    };
    match ready {
        Ok(()) => guard::plain(StatusCode::OK, "ready\n"),
        Err(why) => guard::plain(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

/// Server-sent events: one status a sample. Who reads slowly misses samples; nothing is kept for anybody.
async fn stream_of_samples(State(shared): Shares) -> Response {
    let mut samples = shared.samples.clone();
    samples.mark_changed();
    let events = stream::unfold(samples, |mut samples| async move {
        samples.changed().await.ok()?;
        let sample = Arc::clone(&samples.borrow_and_update());
        let mut event = Vec::with_capacity(sample.json.len() + 8);
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&sample.json);
        event.extend_from_slice(b"\n\n");
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(event)), samples))
    });
    let mut response = Body::from_stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
