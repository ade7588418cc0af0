#![forbid(unsafe_code)]
//! Owns the places where NBD servers listen, and the way to a stream of bytes. Must never know the protocol.

use crate::error::{Error, Result};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The port that IANA gave to NBD.
pub(super) const DEFAULT_PORT: u16 = 10809;

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host, by its name or its address without brackets, and its TCP port.
    Tcp(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(f),
            Address::Tcp(host, port) if host.contains(':') => write!(f, "nbd://[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "nbd://{host}:{port}"),
        }
    }
}

/// A connection to a server.
pub trait Stream: Read + Write + Send {
    /// Lets a read or a write that cannot go on for `patience`, which is above 0, end with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut).
    fn set_patience(&mut self, patience: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }
}

impl Stream for TcpStream {
    fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }
}

impl Address {
    /// The address as errors name it.
    pub(super) fn name(&self) -> PathBuf {
        match self {
            Address::Unix(path) => path.clone(),
            Address::Tcp(..) => PathBuf::from(self.to_string()),
        }
    }

    /// A connection to the server. Each address of a host is tried for `timeout`.
    pub(super) fn connect(&self, timeout: Duration) -> Result<Box<dyn Stream>> {
        let failed = |error| Error::io("cannot connect to the NBD server", error);
        match self {
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).map_err(failed)?)),
            Address::Tcp(host, port) => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in (host.as_str(), *port).to_socket_addrs().map_err(failed)? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            // Requests are small, and each one is waited for.
                            stream.set_nodelay(true).map_err(failed)?;
                            return Ok(Box::new(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(failed(last))
            }
        }
    }
}
