//! Owns a peer of the NBD protocol that has said everything already, and takes whatever it is told.

use checkmap::nbd::Stream;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) struct Recorded {
    says: Cursor<Vec<u8>>,
    hears: Arc<Mutex<Vec<u8>>>,
}

impl Recorded {
    pub(crate) fn new(says: &[u8]) -> Self {
        Self { says: Cursor::new(says.to_vec()), hears: Arc::default() }
    }

    /// The bytes that it was told, which are there when its stream is gone too.
    #[allow(dead_code, reason = "a client is judged by its answers alone")]
    pub(crate) fn hears(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.hears)
    }
}

impl Read for Recorded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.says.read(buffer)
    }
}

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hears.lock().expect("one thread").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Recorded {
    fn set_patience(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}
