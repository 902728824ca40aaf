//! What the page can do to the node.
//!
//! Everything here is off unless `http-actions` is `yes`, and then needs, all at once: a password on the node, and in the request (see
//! [`super::guard`]); a token that only a page of this node can know, and a request that the browser says comes from such a page, since browsers
//! send passwords along with requests of other sites' pages too; and the name of the action, typed by a person. Each attempt, refused or not, is
//! an event of kind `action`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::Shared;
use super::serve::Peer;
use crate::engine::Order;
use crate::events::Level;
use crate::node::Node;
use crate::replication::LeaderAddress;

/// How long FAILOVER waits for its target before this leader leads on, unless the page says otherwise.
const FAILOVER_TIMEOUT_MS: u64 = 10_000;
/// The longest that it may be told to.
const FAILOVER_TIMEOUT_MAX_MS: u64 = 600_000;

/// What is asked for.
#[derive(Debug, Deserialize)]
struct Asked {
    /// The action's name, as the person typed it.
    confirm: String,
    /// FAILOVER: address and port of the follower that is to lead; whoever is first to hold the whole log if there is none.
    /// Resync: the follower.
    target: Option<String>,
    /// Resync: also a follower without which writes are refused until the sync has ended.
    #[serde(default)]
    force: bool,
    /// FAILOVER: see [`FAILOVER_TIMEOUT_MS`].
    timeout_ms: Option<u64>,
}

type Refusal = (StatusCode, String);

fn refuse(status: StatusCode, why: impl Into<String>) -> Refusal {
    (status, why.into())
}

/// What a page needs to know before it can act.
pub async fn session(State(shared): State<Arc<Shared>>) -> Response {
    let config = shared.node.config();
    let enabled = config.http_actions && config.requirepass.is_some();
    Json(json!({
        "actions": enabled,
        "why_not": why_off(&shared.node),
        "csrf_token": enabled.then_some(&shared.csrf_token),
    }))
    .into_response()
}

fn why_off(node: &Node) -> Option<&'static str> {
    let config = node.config();
    match (config.http_actions, &config.requirepass) {
        (false, _) => Some("actions are off: start the node with --http-actions yes"),
        (true, None) => Some("actions need a password: set requirepass"),
        (true, Some(_)) => None,
    }
}

/// Does it.
pub async fn act(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    Path(action): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let result =
        permit(&shared, &action, &headers, &body).and_then(|asked| carry_out(&shared.node, &action, &asked));
    let events = &shared.node.events;
    match result {
        Ok(done) => {
            events.note(Level::Warning, "action", format!("{action}, asked for by {}: {done}", peer.ip()));
            tracing::info!(action, peer = %peer.ip(), "an action was asked for over HTTP");
            Json(json!({ "ok": true, "text": done })).into_response()
        }
        Err((status, why)) => {
            events.note(
                Level::Warning,
                "action",
                format!("{action}, asked for by {}, is refused: {why}", peer.ip()),
            );
            (status, Json(json!({ "ok": false, "text": why }))).into_response()
        }
    }
}

fn permit(shared: &Shared, action: &str, headers: &HeaderMap, body: &[u8]) -> Result<Asked, Refusal> {
    if let Some(why) = why_off(&shared.node) {
        return Err(refuse(StatusCode::FORBIDDEN, why));
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if header("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return Err(refuse(StatusCode::FORBIDDEN, "the request comes from another site"));
    }
    let token = header("x-farkeep-csrf").unwrap_or_default();
    if !bool::from(token.as_bytes().ct_eq(shared.csrf_token.as_bytes())) {
        return Err(refuse(
            StatusCode::FORBIDDEN,
            "the request lacks this node's token: load the page again",
        ));
    }
    if header(CONTENT_TYPE.as_str()) != Some("application/json") {
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"));
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|error| {
        refuse(StatusCode::BAD_REQUEST, format!("the body is not what it should be: {error}"))
    })?;
    if asked.confirm != action {
        return Err(refuse(StatusCode::BAD_REQUEST, format!("type {action} to confirm")));
    }
    Ok(asked)
}

fn carry_out(node: &Node, action: &str, asked: &Asked) -> Result<String, Refusal> {
    match action {
        "failover" => failover(node, asked),
        "scrub" => {
            let mut engine = node.engine.lock();
            match engine.scrub(node, node.now()) {
                Some(0) => {
                    Err(refuse(StatusCode::CONFLICT, "no follower is up to date and not in a walk already"))
                }
                Some(count) => Ok(format!("a scrub of {count} followers has begun")),
                None => Err(refuse(StatusCode::CONFLICT, "this node does not lead")),
            }
        }
        "resync" => {
            let target = asked
                .target
                .as_deref()
                .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "name the follower that is the target"))?;
            let mut engine = node.engine.lock();
            engine.resync(node, target, asked.force).map_err(|why| refuse(StatusCode::CONFLICT, why))?;
            Ok(format!("a resync of {target} has begun"))
        }
        "abort-failover" => {
            let mut engine = node.engine.lock();
            engine.abort_failover(node).map_err(|why| refuse(StatusCode::CONFLICT, why))?;
            Ok("the failover is aborted".to_owned())
        }
        _ => Err(refuse(StatusCode::NOT_FOUND, "there is no such action")),
    }
}

/// As the command FAILOVER: never by force, so nothing acknowledged can be lost by it.
fn failover(node: &Node, asked: &Asked) -> Result<String, Refusal> {
    let conflict = |why: &str| refuse(StatusCode::CONFLICT, why);
    let mut engine = node.engine.lock();
    if engine.fails_over() {
        return Err(conflict("a failover is in progress already"));
    }
    let followers = engine.follower_addresses().ok_or_else(|| conflict("this node does not lead"))?;
    let online: Vec<LeaderAddress> =
        followers.into_iter().filter(|(_, online)| *online).map(|(address, _)| address).collect();
    if online.is_empty() {
        return Err(conflict("no follower is in reach"));
    }
    let target = match &asked.target {
        None => None,
        Some(name) => Some(
            online
                .into_iter()
                .find(|address| format!("{}:{}", address.host, address.port) == *name)
                .ok_or_else(|| conflict("the target is no follower in reach"))?,
        ),
    };
    let timeout_ms = asked.timeout_ms.unwrap_or(FAILOVER_TIMEOUT_MS).clamp(1, FAILOVER_TIMEOUT_MAX_MS);
    let now = node.now();
    let to = asked.target.clone().unwrap_or_else(|| "whoever is first to hold the whole log".to_owned());
    engine.fail_over(node, now, Order { target, force: false, deadline_ms: Some(now.ms + timeout_ms) });
    drop(engine);
    node.wake_workers();
    Ok(format!("failover to {to} has begun"))
}
