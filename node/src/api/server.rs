//! Serves the API and the page on loopback, from start to stop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::gate::{CODE_LIFE, Gate, Session, random_secret};
use super::guard;
use super::{
    ApiError, Endpoint, EndpointError, ErrorCode, Handle, Moment, OpenLink, Reply, Request, Secret,
    routes,
};
use crate::web;

/// How long stopping waits for answers that are under way.
pub const STOP_WAIT: Duration = Duration::from_secs(5);

/// Most event streams at a time.
pub const STREAMS_MAX: usize = 32;

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Port on 127.0.0.1; 0 lets the system choose.
    pub port: u16,
    /// The profile directory, where `api.json` is left for programs.
    pub profile: PathBuf,
}

/// Says why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The system does not let it listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The endpoint file could not be written.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The system gives no random numbers.
    #[error(transparent)]
    Random(#[from] ApiError),
}

/// A server that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    site: Site,
    endpoint: Endpoint,
    profile: PathBuf,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What every handler shares.
#[derive(Debug, Clone)]
pub(crate) struct Site(Arc<SiteInner>);

#[derive(Debug)]
struct SiteInner {
    handle: Handle,
    address: SocketAddr,
    token: Secret,
    gate: Mutex<Gate>,
    streams: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

/// Starts to serve `handle` on 127.0.0.1 and leaves `api.json` in the profile.
///
/// # Errors
///
/// When the port is taken, or the profile cannot be written.
pub async fn serve(handle: Handle, config: ApiConfig) -> Result<Serving, ServeError> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
    let listen_error = |source| ServeError::Listen {
        address: wanted,
        source,
    };
    let listener = TcpListener::bind(wanted).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    let (stopping, stopped) = watch::channel(false);
    let token = random_secret()?;
    let site = Site(Arc::new(SiteInner {
        handle,
        address,
        token: token.clone(),
        gate: Mutex::default(),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        stopping: stopped.clone(),
    }));
    let endpoint = Endpoint {
        address: site.origin(),
        token,
        pid: std::process::id(),
    };
    endpoint.write(&config.profile)?;
    let app = app(site.clone());
    let task = tokio::spawn(async move {
        let until_stopped = until_stopping(stopped);
        if let Err(error) = axum::serve(listener, app)
            .with_graceful_shutdown(until_stopped)
            .await
        {
            tracing::error!(%error, "the local API ended");
        }
    });
    Ok(Serving {
        address,
        site,
        endpoint,
        profile: config.profile,
        stopping,
        task,
    })
}

/// Puts the routes behind the guard.
fn app(site: Site) -> Router {
    Router::new()
        .merge(routes::router(&site))
        .merge(web::router(&site))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(site.clone(), guard::guard))
        .with_state(site)
}

async fn not_found(uri: Uri) -> Response {
    let error = ApiError::new(
        ErrorCode::NotFound,
        "there is nothing at this address",
        "go back to the first page",
    );
    refusal(uri.path(), error)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let error = ApiError::new(
        ErrorCode::MethodNotAllowed,
        format!("this address does not take {method}"),
        "see /v1/openapi.json for what it takes",
    );
    refusal(uri.path(), error)
}

/// Words an error for whoever asked: JSON under `/v1`, a page elsewhere.
pub(crate) fn refusal(path: &str, error: ApiError) -> Response {
    if path == "/v1" || path.starts_with("/v1/") {
        error.into_response()
    } else {
        web::error_page(&error)
    }
}

/// Waits until the server is asked to stop, or dropped.
pub(crate) async fn until_stopping(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender was dropped, which stops the server too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

impl Serving {
    /// Makes a link that opens the page in a browser, once, within ten minutes.
    ///
    /// # Errors
    ///
    /// When the system gives no random numbers.
    pub fn open_link(&self) -> Result<OpenLink, ApiError> {
        self.site.open_link()
    }

    /// Where the API and the page are served: `http://127.0.0.1:PORT`.
    pub fn origin(&self) -> String {
        self.site.origin()
    }

    /// Stops: no new connections, event streams end, answers under way are finished within
    /// [`STOP_WAIT`], `api.json` is removed.
    ///
    /// The node's loop drops its [`Requests`](super::Requests) first: what still waits for an
    /// answer is then told at once that the node is stopping.
    pub async fn stop(mut self) {
        // An error means that the task has ended already.
        let _ = self.stopping.send(true);
        if tokio::time::timeout(STOP_WAIT, &mut self.task)
            .await
            .is_err()
        {
            tracing::warn!("a client kept its connection open; closing it");
            self.task.abort();
        }
        if let Err(error) = self.endpoint.remove(&self.profile) {
            tracing::warn!(%error, "the endpoint file stays behind");
        }
    }
}

impl Site {
    /// Asks the node's loop.
    pub(crate) async fn ask<T>(&self, request: Request) -> Result<T, ApiError>
    where
        T: TryFrom<Reply, Error = ApiError>,
    {
        self.0.handle.call(request).await?.try_into()
    }

    /// The handle to the node's loop.
    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// The port that the server listens on.
    pub(crate) fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// The token that programs present.
    pub(crate) fn token(&self) -> &Secret {
        &self.0.token
    }

    /// Where event streams take their places.
    pub(crate) fn streams(&self) -> Arc<Semaphore> {
        self.0.streams.clone()
    }

    /// Tells when the server stops.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.0.stopping.clone()
    }

    /// Makes a one-time link.
    pub(crate) fn open_link(&self) -> Result<OpenLink, ApiError> {
        let code = self.gate().make_code(Instant::now())?;
        Ok(OpenLink {
            link: Secret::new(format!("{}/open?code={}", self.origin(), code.expose())),
            expires_at: from_now(CODE_LIFE),
        })
    }

    /// Takes a one-time code; `None` when it is not valid.
    pub(crate) fn admit(&self, code: &str) -> Result<Option<Session>, ApiError> {
        self.gate().admit(code, Instant::now())
    }

    /// Finds the session that a cookie belongs to.
    pub(crate) fn session(&self, cookie: &str) -> Option<Session> {
        self.gate().session(cookie)
    }

    fn gate(&self) -> std::sync::MutexGuard<'_, Gate> {
        // Nothing in the gate can be left half done, so a panic elsewhere does not spoil it.
        self.0.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn from_now(span: Duration) -> Moment {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let ms = u64::try_from((since + span).as_millis()).unwrap_or(u64::MAX);
    Moment::from_ms(ms)
}

impl axum::response::IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(super::ErrorBody { error: self })).into_response()
    }
}
