//! Numbers and health for programs on the same computer: `/metrics`, `/healthz`, `/readyz`.
//!
//! Each request asks the node's loop, which is the only one that knows: a loop that hangs shows as
//! unhealthy. No number has a label that names a topic or a peer.
//!
//! * `/healthz`: 200 while the loop answers, also when it is full: starting again would not help.
//! * `/readyz`: 200 while the node listens and takes what is new; else 503, and why.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::api::{ApiError, CommunityReport, Handle, Reply, Request};

/// How long the loop may take to answer before it counts as hanging.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// What scrapers expect: OpenMetrics text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long things took. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Timings {
    /// Seconds that a flush of the store took.
    pub flush: Histogram,
    /// Seconds that a turn of the loop took, with its flush, without waiting for work.
    pub turn: Histogram,
    /// Seconds from a link to another node being up until a topic was equal on both.
    pub sync: Histogram,
}

impl Default for Timings {
    fn default() -> Self {
        // From 0.5 ms to 8 s; from 5 ms to 80 s.
        let short = || Histogram::new(exponential_buckets(0.0005, 2.0, 15));
        Self {
            flush: short(),
            turn: short(),
            sync: Histogram::new(exponential_buckets(0.005, 2.0, 15)),
        }
    }
}

#[derive(Clone)]
struct Served {
    handle: Handle,
    timings: Timings,
}

/// A server of numbers; dropping it stops it.
pub(crate) struct Metrics {
    task: JoinHandle<()>,
}

impl Metrics {
    /// Serves at an address of this computer.
    pub(crate) async fn serve(
        address: SocketAddr,
        handle: Handle,
        timings: Timings,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(Served { handle, timings });
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "metrics are no longer served");
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn report(&self) -> Result<CommunityReport, ApiError> {
        let asked = self.handle.call(Request::CommunityReport { sight: false });
        let answer = tokio::time::timeout(ANSWER_WAIT, asked).await;
        let reply: Reply = answer.unwrap_or_else(|_| Err(ApiError::no_answer()))?;
        reply.try_into()
    }
}

async fn metrics(State(served): State<Served>) -> Response {
    match served.report().await {
        Ok(report) => {
            let text = text(&report, &served.timings);
            ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
        }
        Err(error) => unwell(&error),
    }
}

async fn healthz(State(served): State<Served>) -> Response {
    match served.report().await {
        Ok(CommunityReport { full: None, .. }) => "ok\n".into_response(),
        Ok(CommunityReport {
            full: Some(why), ..
        }) => format!("ok, but nothing new is taken: {why}\n").into_response(),
        Err(error) => unwell(&error),
    }
}

async fn readyz(State(served): State<Served>) -> Response {
    let not_ready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    match served.report().await {
        Ok(CommunityReport {
            full: Some(why), ..
        }) => not_ready(format!("nothing new is taken: {why}\n")),
        Ok(CommunityReport {
            listening: false, ..
        }) => not_ready("it does not listen anywhere\n".into()),
        Ok(_) => "ready\n".into_response(),
        Err(error) => unwell(&error),
    }
}

fn unwell(error: &ApiError) -> Response {
    let why = format!("{error}\n");
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// Writes the numbers as Prometheus reads them.
fn text(report: &CommunityReport, timings: &Timings) -> String {
    let mut registry = Registry::with_prefix("kith_community");
    let CommunityReport {
        held,
        network,
        discovery,
        done,
        disk,
        ..
    } = report;
    for (name, help, value) in [
        ("links", "Mailbox links that are open", held.links),
        ("envelopes", "Envelopes held", held.envelopes),
        ("envelope_bytes", "Bytes of envelopes held", held.bytes),
        ("topics", "Topics that have envelopes", held.topics),
        ("pins", "Topics that are pinned", held.pins),
        ("inboxes", "Pinned topics that are inboxes", held.inboxes),
        ("tcp_connections", "Connections over TCP", network.tcp),
        ("quic_connections", "Connections over QUIC", network.quic),
        (
            "reservations",
            "Nodes that can be called by a circuit through this one",
            network.reservations,
        ),
        (
            "circuits",
            "Circuits carried between others",
            network.circuits,
        ),
        (
            "discovery_on",
            "1 if it finds other community nodes and is found",
            u64::from(discovery.on),
        ),
        (
            "discovery_peers",
            "Community nodes in the routing table",
            discovery.peers,
        ),
        (
            "discovery_described",
            "How many of them have described themselves",
            discovery.described,
        ),
        ("store_bytes", "Size of the store on disk", disk.store_bytes),
        (
            "store_max_bytes",
            "Size that the store may reach",
            disk.store_max_bytes,
        ),
        (
            "disk_free_bytes",
            "What is free on the disk",
            disk.free_bytes,
        ),
        (
            "full",
            "1 while nothing new is taken",
            u64::from(report.full.is_some()),
        ),
        (
            "listening",
            "1 while it listens",
            u64::from(report.listening),
        ),
        (
            "start_time_seconds",
            "When it started, in seconds since 1970",
            report.since.as_ms() / 1000,
        ),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    for (name, help, value) in [
        ("stored", "Envelopes taken that were new", done.stored),
        ("confirmed", "Puts that were confirmed", done.confirmed),
        (
            "delivered",
            "Envelopes sent because they were fetched",
            done.delivered,
        ),
        (
            "pushed",
            "Envelopes sent because they were new",
            done.pushed,
        ),
        (
            "compared",
            "Messages of comparisons answered",
            done.compared,
        ),
        (
            "expired",
            "Envelopes deleted because their time was over",
            done.expired,
        ),
        (
            "reservations_refused",
            "Reservations that were refused",
            network.reservations_refused,
        ),
        (
            "circuits_refused",
            "Circuits that were refused",
            network.circuits_refused,
        ),
        (
            "discovery_queries",
            "Lookups that discovery made",
            discovery.queries,
        ),
        (
            "discovery_calls",
            "Nodes that discovery called",
            discovery.calls,
        ),
        (
            "discovery_records_refused",
            "Records that others wanted to leave and that were refused",
            discovery.records_refused,
        ),
        (
            "received_bytes",
            "Bytes of frames received",
            done.bytes_received,
        ),
        ("sent_bytes", "Bytes of frames sent", done.bytes_sent),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    for (name, help, by_cause) in [
        ("refused", "Refusals by cause", &done.refused),
        ("closed", "Links closed for a fault, by cause", &done.closed),
    ] {
        let family = Family::<[(&'static str, String); 1], Counter>::default();
        for (cause, count) in by_cause {
            family
                .get_or_create(&[("cause", cause.clone())])
                .inc_by(*count);
        }
        registry.register(name, help, family);
    }
    let Timings { flush, turn, sync } = timings.clone();
    registry.register("flush_seconds", "How long flushes of the store took", flush);
    registry.register("turn_seconds", "How long turns of the loop took", turn);
    registry.register(
        "sync_seconds",
        "How long it took until a topic was equal at another node",
        sync,
    );
    let mut text = String::new();
    // Writing to a string cannot go wrong.
    let _ = encode(&mut text, &registry);
    text
}
