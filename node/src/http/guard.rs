//! Who may see what.
//!
//! As on the RESP port: with `requirepass`, whoever knows the password, as HTTP Basic (user `default` or none, as in `AUTH`) or as a Bearer
//! token; without one, whoever is on this host. Without a password the request must also be *meant* for this host: a page of another
//! site can make a browser connect to 127.0.0.1 under a name of its own (DNS rebinding), but it cannot make it say `Host: localhost`.
//!
//! The probes `/healthz` and `/readyz` tell nothing that a connection to the RESP port does not, and answer everybody.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use subtle::ConstantTimeEq;

use super::Shared;
use super::serve::Peer;

/// How long a wrong password takes to be refused. It slows down guessing, and nobody else: the other requests go on.
const WRONG_PASSWORD_DELAY: Duration = Duration::from_millis(300);
/// Longest time for an answer to be put together, the request's body included.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Sent with every answer: nothing is loaded from elsewhere, nothing is framed, nothing is cached.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        HeaderName::from_static("content-security-policy"),
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (HeaderName::from_static("referrer-policy"), "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Lets through who may.
pub async fn check(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let open = matches!(request.uri().path(), "/healthz" | "/readyz");
    let password = shared.node.config().requirepass.clone();
    let refusal = match &password {
        _ if open => None,
        Some(password) if knows(request.headers(), password) => None,
        Some(_) => {
            if request.headers().contains_key(AUTHORIZATION) {
                tokio::time::sleep(WRONG_PASSWORD_DELAY).await;
            }
            Some(unauthorized())
        }
        None => local_only(peer.ip(), request.headers()),
    };
    let mut response = match refusal {
        Some(response) => response,
        None => tokio::time::timeout(ANSWER_LIMIT, next.run(request))
            .await
            .unwrap_or_else(|_| plain(StatusCode::REQUEST_TIMEOUT, "the request took too long\n")),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A short answer for people.
pub fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}

fn unauthorized() -> Response {
    let mut response = plain(
        StatusCode::UNAUTHORIZED,
        "a password is needed: that of the RESP port (requirepass), user default\n",
    );
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"farkeep\", charset=\"UTF-8\""));
    response
}

fn local_only(peer: IpAddr, headers: &HeaderMap) -> Option<Response> {
    if !peer.to_canonical().is_loopback() {
        return Some(plain(
            StatusCode::FORBIDDEN,
            "without a password only this host may look: set requirepass, or connect through ssh -L\n",
        ));
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    (!is_local_name(host)).then(|| {
        plain(
            StatusCode::FORBIDDEN,
            "without a password the Host header must be localhost or a loopback address\n",
        )
    })
}

/// Whether a `Host` names this host, with or without a port.
fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the request comes with the password. Takes the same time whatever the password begins with.
fn knows(headers: &HeaderMap, password: &str) -> bool {
    let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return false };
    let Some((scheme, rest)) = value.split_once(' ') else { return false };
    if scheme.eq_ignore_ascii_case("bearer") {
        return same(rest.trim().as_bytes(), password.as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let Ok(decoded) = BASE64_STANDARD.decode(rest.trim()) else { return false };
    let Some(at) = decoded.iter().position(|&byte| byte == b':') else { return false };
    let (user, given) = (&decoded[..at], &decoded[at + 1..]);
    same(given, password.as_bytes()) && (user.is_empty() || user == b"default")
}

fn same(given: &[u8], password: &[u8]) -> bool {
    given.ct_eq(password).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorized(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        knows(&headers, "se:cret")
    }

    #[test]
    fn password_is_taken_as_basic_and_as_bearer_and_nothing_else_is() {
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for good in
            [basic("default:se:cret"), basic(":se:cret"), "Bearer se:cret".into(), "bearer  se:cret".into()]
        {
            assert!(authorized(&good), "{good}");
        }
        for bad in [
            basic("default:secret"),
            basic("root:se:cret"),
            basic("se:cret"),
            "Basic !".into(),
            "Bearer ".into(),
            "Digest se:cret".into(),
            "se:cret".into(),
        ] {
            assert!(!authorized(&bad), "{bad}");
        }
        assert!(!knows(&HeaderMap::new(), ""));
    }

    #[test]
    fn only_names_of_this_host_are_local() {
        for local in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "127.1.2.3", "[::1]:80", "[::1]"] {
            assert!(is_local_name(local), "{local}");
        }
        for other in
            ["", "example.com", "localhost.example.com", "10.0.0.1", "[::2]:1", "127.0.0.1.example.com:80"]
        {
            assert!(!is_local_name(other), "{other}");
        }
    }
}
