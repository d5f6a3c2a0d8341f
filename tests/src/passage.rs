//! A way to a node that can fall silent: a port on loopback, and what connects there is connected on.
//!
//! Something between two nodes often answers in the place of the other: a router that keeps connections
//! alive, a network with a page to log in, a provider's box. When it forgets a connection, each end goes on being
//! told that all is well, and nothing arrives. The system does not notice either, since what is sent is acknowledged.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// The way; dropping it ends what it connects.
#[derive(Debug)]
pub struct Passage {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    ending: AtomicBool,
    connected: Mutex<Vec<Connected>>,
}

/// One connection, from end to end.
#[derive(Debug)]
struct Connected {
    ends: [TcpStream; 2],
    silent: Arc<AtomicBool>,
}

impl Passage {
    /// Makes a way to a port on loopback.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let accepted = shared.clone();
        let accepting = thread::spawn(move || {
            for near in listener.incoming() {
                if accepted.ending.load(Ordering::SeqCst) {
                    return;
                }
                // From before the other end hears of it, so that whoever was heard is known here.
                let mut connected = accepted.connected();
                // Who calls while the node is down is hung up on.
                let far = TcpStream::connect(("127.0.0.1", target));
                if let (Ok(near), Ok(far)) = (near, far) {
                    connected.push(Connected::between(near, far));
                }
            }
        });
        Self {
            port,
            shared,
            accepting: Some(accepting),
        }
    }

    /// The port that leads there.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forgets the connections that there are, and tells nobody: what is sent is taken, and goes nowhere. New ones
    /// are connected.
    pub fn falls_silent(&self) {
        for connected in &*self.shared.connected() {
            connected.silent.store(true, Ordering::SeqCst);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        // Wakes the one who waits for a call.
        let _called = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
        for end in self.shared.connected().iter().flat_map(|it| &it.ends) {
            // It may have ended by itself.
            let _gone = end.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn connected(&self) -> MutexGuard<'_, Vec<Connected>> {
        self.connected.lock().expect("nobody panics with it")
    }
}

impl Connected {
    fn between(near: TcpStream, far: TcpStream) -> Self {
        let silent = Arc::new(AtomicBool::new(false));
        let ends = [&near, &far].map(|end| end.try_clone().expect("a socket can be cloned"));
        let (near_too, far_too) = (near.try_clone(), far.try_clone());
        carry(near, far_too.expect("it can be cloned"), silent.clone());
        carry(far, near_too.expect("it can be cloned"), silent.clone());
        Self { ends, silent }
    }
}

/// Carries what arrives at one end to the other, until one of them ends or falls silent.
fn carry(mut from: TcpStream, mut to: TcpStream, silent: Arc<AtomicBool>) {
    thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        loop {
            let read = from.read(&mut bytes).unwrap_or(0);
            if silent.load(Ordering::SeqCst) {
                // Not even the end is told.
                if read == 0 {
                    return;
                }
            } else if read == 0 || to.write_all(&bytes[..read]).is_err() {
                let _gone = from.shutdown(Shutdown::Both);
                let _gone = to.shutdown(Shutdown::Both);
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_fell_silent_takes_all_and_brings_nothing_and_a_new_call_is_connected() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let passage = Passage::to(listener.local_addr().unwrap().port());
        let call = || {
            let near = TcpStream::connect(("127.0.0.1", passage.port())).unwrap();
            (near, listener.accept().unwrap().0)
        };
        let hears = |end: &mut TcpStream| {
            let mut byte = [0];
            end.read_exact(&mut byte).map(|()| byte[0])
        };
        let (mut near, mut far) = call();
        near.write_all(&[1]).unwrap();
        assert_eq!(hears(&mut far).unwrap(), 1);
        passage.falls_silent();
        near.write_all(&[2]).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let (mut new, mut answering) = call();
        answering.write_all(&[3]).unwrap();
        assert_eq!(hears(&mut new).unwrap(), 3);
        far.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(hears(&mut far).is_err());
        drop(passage);
        new.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert!(hears(&mut new).is_err(), "it ends with the passage");
    }
}
