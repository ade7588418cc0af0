//! Owns the waiting for a child process and the figures of its use. Knows nothing of the measured work.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

/// Waits for a child, and asks what it used.
pub fn wait(child: Child) -> Result<(ExitStatus, libc::rusage), Box<dyn std::error::Error>> {
    let (mut status, pid) = (0, libc::pid_t::try_from(child.id())?);
    // SAFETY: rusage is a plain struct of integers, of which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the types that wait4 fills; `pid` is a child of ours nobody waits for.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    match waited == pid {
        true => Ok((ExitStatus::from_raw(status), usage)),
        false => Err(std::io::Error::last_os_error().into()),
    }
}
