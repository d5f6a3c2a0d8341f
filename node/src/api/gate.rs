//! Who may use the API: programs by token, browsers by a session that a one-time link opens.
//!
//! A link works once, for ten minutes. It is exchanged for a cookie, and every form carries a
//! second secret of the session, so that neither a stolen link nor a forged form is enough.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use subtle::ConstantTimeEq as _;

use super::{ApiError, Secret};

/// How long a one-time link works.
pub const CODE_LIFE: Duration = Duration::from_secs(600);

/// Most one-time links at a time; a newer one displaces the oldest.
pub const CODES_MAX: usize = 16;

/// Most browser sessions at a time; a newer one displaces the oldest.
pub const SESSIONS_MAX: usize = 32;

/// Keeps the one-time codes and the sessions that are valid.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    codes: VecDeque<(Secret, Instant)>,
    sessions: VecDeque<Session>,
}

/// A browser that was let in.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// What the browser sends with every request.
    pub(crate) cookie: Secret,
    /// What the forms of this session carry.
    pub(crate) csrf: Secret,
}

impl Gate {
    /// Makes a code that opens one session until [`CODE_LIFE`] from `now`.
    pub(crate) fn make_code(&mut self, now: Instant) -> Result<Secret, ApiError> {
        let code = random_secret()?;
        self.codes.push_back((code.clone(), now + CODE_LIFE));
        while self.codes.len() > CODES_MAX {
            self.codes.pop_front();
        }
        Ok(code)
    }

    /// Takes a code, once, and opens a session; `None` when the code is not valid.
    pub(crate) fn admit(&mut self, code: &str, now: Instant) -> Result<Option<Session>, ApiError> {
        self.codes.retain(|(_, until)| *until > now);
        let found = self.codes.iter().position(|(known, _)| same(known, code));
        let Some(index) = found else { return Ok(None) };
        self.codes.remove(index);
        let session = Session {
            cookie: random_secret()?,
            csrf: random_secret()?,
        };
        self.sessions.push_back(session.clone());
        while self.sessions.len() > SESSIONS_MAX {
            self.sessions.pop_front();
        }
        Ok(Some(session))
    }

    /// Finds the session that a cookie belongs to.
    pub(crate) fn session(&self, cookie: &str) -> Option<Session> {
        self.sessions
            .iter()
            .find(|session| same(&session.cookie, cookie))
            .cloned()
    }
}

impl Session {
    /// Tells whether a form of this session carried its secret.
    pub(crate) fn owns_form(&self, csrf: &str) -> bool {
        same(&self.csrf, csrf)
    }
}

/// Compares in constant time; only the length may be learned.
pub(crate) fn same(secret: &Secret, given: &str) -> bool {
    secret.expose().as_bytes().ct_eq(given.as_bytes()).into()
}

/// Draws 32 random bytes, as hexadecimal text.
pub(crate) fn random_secret() -> Result<Secret, ApiError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|_| ApiError::internal("the system gives no random numbers"))?;
    Ok(Secret::new(HEXLOWER.encode(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_opens_one_session_once() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let code = gate.make_code(now).unwrap();
        assert!(gate.admit("no such code", now).unwrap().is_none());
        let session = gate.admit(code.expose(), now).unwrap().unwrap();
        assert!(gate.admit(code.expose(), now).unwrap().is_none());
        let found = gate.session(session.cookie.expose()).unwrap();
        assert!(found.owns_form(session.csrf.expose()));
        assert!(!found.owns_form(session.cookie.expose()));
        assert!(gate.session(code.expose()).is_none());
        assert!(gate.session("").is_none());
    }

    #[test]
    fn a_code_expires() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let code = gate.make_code(now).unwrap();
        assert!(
            gate.admit(code.expose(), now + CODE_LIFE)
                .unwrap()
                .is_none()
        );
        assert!(gate.codes.is_empty());
    }

    #[test]
    fn codes_and_sessions_are_bounded() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let first = gate.make_code(now).unwrap();
        for _ in 0..CODES_MAX {
            gate.make_code(now).unwrap();
        }
        assert_eq!(gate.codes.len(), CODES_MAX);
        assert!(gate.admit(first.expose(), now).unwrap().is_none());
        for _ in 0..=SESSIONS_MAX {
            let code = gate.make_code(now).unwrap();
            gate.admit(code.expose(), now).unwrap().unwrap();
        }
        assert_eq!(gate.sessions.len(), SESSIONS_MAX);
    }
}
