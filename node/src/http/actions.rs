//! What the page can do to the node.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::{Shared, guard};

/// What a page needs to know before it can act.
pub async fn session(State(shared): State<Arc<Shared>>) -> Response {
    let enabled = shared.node.config().http_actions;
    Json(json!({ "actions": enabled, "csrf_token": enabled.then_some(&shared.csrf_token) })).into_response()
}

/// Does it.
pub async fn act(State(shared): State<Arc<Shared>>, Path(action): Path<String>) -> Response {
    if !shared.node.config().http_actions {
        return guard::plain(
            StatusCode::FORBIDDEN,
            "actions are off: start the node with --http-actions yes\n",
        );
    }
    (StatusCode::NOT_FOUND, format!("there is no action {action}\n")).into_response()
}
