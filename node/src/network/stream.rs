//! Opens and accepts mailbox streams, and tells on which connection each one lives.
//!
//! A behaviour of our own rather than `libp2p-stream`: that crate drops accepted streams when two
//! arrive before the application looks, picks any connection of a peer at random, and keeps a
//! sender of every connection that ever was. A community node that many members return to at once
//! needs none of these.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    option,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};

use super::LinkRole;

/// Name of the protocol that a mailbox stream speaks.
pub const MAILBOX_PROTOCOL: &str = "/kith/mailbox/1";

/// What became of a stream.
#[derive(Debug)]
pub(super) enum Event {
    /// A stream is ready to use.
    Opened {
        peer: PeerId,
        connection: ConnectionId,
        role: LinkRole,
        stream: Stream,
    },
    /// The stream that we asked for did not come to be.
    Refused {
        peer: PeerId,
        connection: ConnectionId,
        reason: String,
    },
}

/// Opens mailbox streams on request, and accepts them if told to.
pub(super) struct Behaviour {
    accepts: bool,
    /// Bounded by what one poll of the swarm brings: it is emptied at each.
    events: VecDeque<ToSwarm<Event, Request>>,
}

impl Behaviour {
    pub(super) fn new(accepts: bool) -> Self {
        Self {
            accepts,
            events: VecDeque::new(),
        }
    }

    /// Asks for a stream on one connection; an [`Event`] follows, unless the connection ends first.
    pub(super) fn open(&mut self, peer: PeerId, connection: ConnectionId) {
        self.request(peer, connection, Request::Open);
    }

    /// Makes all that lives on one connection look whether it has something to do.
    pub(super) fn nudge(&mut self, peer: PeerId, connection: ConnectionId) {
        self.request(peer, connection, Request::Nudge);
    }

    fn request(&mut self, peer_id: PeerId, connection: ConnectionId, event: Request) {
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event,
        });
    }

    fn handler(&self) -> Handler {
        Handler {
            accepts: self.accepts,
            requests: 0,
            events: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let event = match event {
            HandlerEvent::Opened(role, stream) => Event::Opened {
                peer,
                connection,
                role,
                stream,
            },
            HandlerEvent::Refused(reason) => Event::Refused {
                peer,
                connection,
                reason,
            },
        };
        self.events.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        // No waker to keep: only the driver and the swarm add events, and both poll afterwards.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What a connection's handler is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Open,
    /// Nothing, but being told makes the connection poll all of its handlers.
    Nudge,
}

#[derive(Debug)]
pub(super) enum HandlerEvent {
    Opened(LinkRole, Stream),
    Refused(String),
}

/// The part that lives with one connection.
pub(super) struct Handler {
    accepts: bool,
    /// Streams still to ask for; the driver asks for one at a time.
    requests: usize,
    events: VecDeque<HandlerEvent>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Request;
    type ToBehaviour = HandlerEvent;
    type InboundProtocol = Mailbox;
    type OutboundProtocol = Mailbox;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Mailbox> {
        SubstreamProtocol::new(
            Mailbox {
                offered: self.accepts,
            },
            (),
        )
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Mailbox, (), HandlerEvent>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if self.requests > 0 {
            self.requests -= 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Mailbox { offered: true }, ()),
            });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, request: Request) {
        match request {
            Request::Open => self.requests += 1,
            Request::Nudge => {}
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Mailbox, Mailbox>) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => HandlerEvent::Opened(LinkRole::Server, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => HandlerEvent::Opened(LinkRole::Client, protocol),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                HandlerEvent::Refused(match error {
                    StreamUpgradeError::Timeout => {
                        "the peer did not answer in time when asked for a mailbox".to_owned()
                    }
                    StreamUpgradeError::NegotiationFailed => {
                        "the peer offers no mailbox".to_owned()
                    }
                    StreamUpgradeError::Io(error) => {
                        format!("the connection broke when a mailbox was asked for: {error}")
                    }
                    StreamUpgradeError::Apply(never) => match never {},
                })
            }
            _ => return,
        };
        self.events.push_back(event);
    }
}

/// Negotiates a mailbox stream, or, if it is not offered, nothing at all.
pub(super) struct Mailbox {
    offered: bool,
}

impl UpgradeInfo for Mailbox {
    type Info = StreamProtocol;
    type InfoIter = option::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.offered
            .then_some(StreamProtocol::new(MAILBOX_PROTOCOL))
            .into_iter()
    }
}

impl InboundUpgrade<Stream> for Mailbox {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

impl OutboundUpgrade<Stream> for Mailbox {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}
