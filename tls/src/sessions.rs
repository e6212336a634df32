//! Sessions that a client can resume.
//!
//! A resumed handshake costs half of a full one. rustls' own store keeps 32 servers and reserves the memory for all their tickets
//! at once; this one grows with what is really used, and keeps as many tickets per server as there are connections opened at
//! the same time. Each ticket is used once (RFC 8446, appendix C.4), and each connection brings the next.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

/// Servers remembered by one client configuration, which talks to the endpoints of one identity. Those beyond the bound take full
/// handshakes.
const MAX_SERVERS: usize = 256;

/// Tickets kept of one server. A ticket is 1 to 2 KiB; a server has as many as it had connections at the same time, so this many
/// are seen only under a storm of short connections, when they matter.
const MAX_TICKETS: usize = 32;

/// The tickets of each server.
#[derive(Default)]
pub(crate) struct Sessions {
    servers: Mutex<HashMap<ServerName<'static>, Server>>,
}

#[derive(Default)]
struct Server {
    group: Option<NamedGroup>,
    /// Oldest first.
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn edit(&self, name: ServerName<'static>, change: impl FnOnce(&mut Server)) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= MAX_SERVERS && !servers.contains_key(&name) {
            // Whichever comes first: endpoints that are gone are never asked for again, and losing one that is not costs it
            // one full handshake.
            if let Some(out) = servers.keys().next().cloned() {
                servers.remove(&out);
            }
        }
        change(servers.entry(name).or_default());
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.edit(name, |server| server.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).get(name)?.group
    }

    fn set_tls12_session(&self, _name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _name: &ServerName<'_>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.edit(name, |server| {
            if server.tickets.len() >= MAX_TICKETS {
                server.tickets.pop_front();
            }
            server.tickets.push_back(value);
        });
    }

    /// The newest: its keys are the likeliest to be known to the server still.
    fn take_tls13_ticket(&self, name: &ServerName<'_>) -> Option<Tls13ClientSessionValue> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&name.to_owned())?.tickets.pop_back()
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}
