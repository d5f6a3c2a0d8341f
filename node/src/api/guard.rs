//! What every request passes: host, origin, size, caller; and the headers of every answer.
//!
//! A web page anywhere can make a browser send requests to 127.0.0.1. `Host` must be ours, which
//! stops names that were re-pointed at this machine; `Origin` must be ours when there is one;
//! and nothing is answered without a token or a session.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;

use super::gate::{Session, same};
use super::server::{Site, refusal};
use super::{ApiError, BODY_MAX, ErrorCode};

/// How much of an oversized body is read and thrown away, so that its sender hears why.
const DISCARD_MAX: usize = 8 * 1024 * 1024;

/// Sent with every answer. `same-origin`, and not `no-referrer`, because browsers send
/// `Origin: null` from forms of a page that allows no referrer; neither tells another site.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "same-origin"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Checks host, origin and size, and adds the headers. Wraps every route.
pub(crate) async fn guard(State(site): State<Site>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let checked = match check_source(site.port(), request.headers()) {
        Ok(()) => bounded(request).await,
        Err(error) => Err(error),
    };
    let mut response = match checked {
        Ok(request) => next.run(request).await,
        Err(error) => refusal(&path, error),
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets programs with the token through, and browsers with a session when they only read.
pub(crate) async fn programs(State(site): State<Site>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let error = match token {
        Some(token) if same(site.token(), token) => return next.run(request).await,
        Some(_) => unauthorized("the token is not this node's"),
        None => match session(&site, headers) {
            Some(_) if request.method().is_safe() => return next.run(request).await,
            Some(_) => ApiError::new(
                ErrorCode::Forbidden,
                "a browser session can only read here",
                "use the forms of the page, or send the token",
            ),
            None => unauthorized("the request carries no token"),
        },
    };
    error.into_response()
}

/// Lets browsers with a session through, and hands the session on.
pub(crate) async fn browsers(
    State(site): State<Site>,
    mut request: Request,
    next: Next,
) -> Response {
    match session(&site, request.headers()) {
        Some(session) => {
            request.extensions_mut().insert(session);
            next.run(request).await
        }
        None => refusal(
            request.uri().path(),
            ApiError::new(
                ErrorCode::Unauthorized,
                "this browser has not been let in",
                "open the link that kith printed when it started; `kith up` prints a new one",
            ),
        ),
    }
}

/// Name of the cookie. It holds the port because cookies are shared by all ports of a host.
pub(crate) fn cookie_name(port: u16) -> String {
    format!("kith-{port}")
}

fn check_source(port: u16, headers: &HeaderMap) -> Result<(), ApiError> {
    let forbidden = |message: &str| {
        ApiError::new(
            ErrorCode::Forbidden,
            message,
            format!("open http://127.0.0.1:{port}/ on the computer that runs the node"),
        )
    };
    let ours = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let host = single(headers, &HOST)
        .filter(|host| ours.iter().any(|ours| ours == host))
        .ok_or_else(|| forbidden("the request names another host"))?;
    if headers.contains_key(ORIGIN) {
        single(headers, &ORIGIN)
            .filter(|origin| origin.strip_prefix("http://") == Some(host))
            .ok_or_else(|| forbidden("the request comes from another site"))?;
    }
    Ok(())
}

/// The value of a header that must stand there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

fn session(site: &Site, headers: &HeaderMap) -> Option<Session> {
    let name = cookie_name(site.port());
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .find_map(|(_, value)| site.session(value))
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(
        ErrorCode::Unauthorized,
        message,
        "read address and token from api.json in the node's profile",
    )
}

/// Reads the body into memory, so that one larger than [`BODY_MAX`] is refused with its size.
async fn bounded(request: Request) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut size = 0_usize;
    while let Some(chunk) = stream.next().await {
        let chunk: Bytes = chunk.map_err(|_| {
            ApiError::new(
                ErrorCode::BadRequest,
                "the request body ended early",
                "send it again",
            )
        })?;
        size = size.saturating_add(chunk.len());
        if size <= BODY_MAX {
            bytes.extend_from_slice(&chunk);
        } else if size > DISCARD_MAX {
            break;
        }
    }
    if size > BODY_MAX {
        let more = if size > DISCARD_MAX { "more than " } else { "" };
        return Err(ApiError::new(
            ErrorCode::BodyTooLarge,
            format!("the request has {more}{size} bytes; at most {BODY_MAX} (256 KiB) are allowed"),
            "send less at a time; a message may have 32768 bytes (32 KiB)",
        ));
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_source(4321, &headers).is_ok()
    }

    #[test]
    fn only_this_host_is_served() {
        assert!(check(&[("host", "127.0.0.1:4321")]));
        assert!(check(&[("host", "localhost:4321")]));
        for host in [
            "127.0.0.1",
            "127.0.0.1:4322",
            "evil.example:4321",
            "localhost.evil.example:4321",
            "[::1]:4321",
            "LOCALHOST:4321 ",
            "",
        ] {
            assert!(!check(&[("host", host)]), "{host}");
        }
        assert!(!check(&[]));
        assert!(!check(&[
            ("host", "127.0.0.1:4321"),
            ("host", "evil.example")
        ]));
    }

    #[test]
    fn another_origin_is_refused() {
        let host = ("host", "127.0.0.1:4321");
        assert!(check(&[host, ("origin", "http://127.0.0.1:4321")]));
        for origin in [
            "null",
            "http://localhost:4321",
            "https://127.0.0.1:4321",
            "http://127.0.0.1:80",
            "http://evil.example",
        ] {
            assert!(!check(&[host, ("origin", origin)]), "{origin}");
        }
    }
}
