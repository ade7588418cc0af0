//! Owns what the measurements of whole programs share: a folder of their own, a disk full of data, commands that must succeed, a
//! monitor of QEMU, a client of NBD, and the median of pairs. Knows nothing of the measured work.

use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs `work` in an empty folder of this name, which goes afterwards.
pub fn in_folder(name: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let folder = PathBuf::from(std::env::var("TMPDIR").unwrap_or("/tmp".into())).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder)?;
    let done = work(&folder);
    std::fs::remove_dir_all(&folder)?;
    done
}

/// Bytes that no file system stores as a hole, the same in each run.
pub fn fill(path: &Path, mib: u64) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut state = 1_u64;
    for _ in 0..mib << 17 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&state.to_be_bytes())?;
    }
    file.flush()?;
    Ok(())
}

/// Runs a command that must succeed; how long it took.
pub fn run(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let output = command.output()?;
    match output.status.success() {
        true => Ok(start.elapsed()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Waits until a server listens at `socket`; `is_alive` fails once it never will.
pub fn connect(socket: &Path, mut is_alive: impl FnMut() -> Result<()>) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        is_alive()?;
        if Instant::now() > deadline {
            return Err(format!("nobody listens at {}", socket.display()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A monitor of QEMU.
pub struct Monitor(BufReader<UnixStream>);

impl Monitor {
    pub fn greet(stream: UnixStream) -> Result<Self> {
        let mut monitor = Self(BufReader::new(stream));
        monitor.line()?;
        monitor.command("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    pub fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let words = json!({ "execute": name, "arguments": arguments });
        self.0.get_mut().write_all(format!("{words}\n").as_bytes())?;
        loop {
            let answer = self.line()?;
            if let Some(content) = answer.get("return") {
                return Ok(content.clone());
            }
            // QEMU can greet a second time where somebody connects while it starts.
            if answer.get("event").or(answer.get("QMP")).is_none() {
                return Err(format!("{name}: {answer}").into());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// The simplest client of NBD: one request at a time.
pub struct Nbd(UnixStream);

impl Nbd {
    pub fn connect(path: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        let mut words = 3_u32.to_be_bytes().to_vec();
        words.extend(b"IHAVEOPT");
        words.extend(1_u32.to_be_bytes());
        words.extend(4_u32.to_be_bytes());
        words.extend(b"disk");
        stream.write_all(&words)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        Ok(Self(stream))
    }

    /// A request without data of its own: 0 reads, 4 discards, 6 writes zeroes.
    pub fn request(&mut self, command: u16, offset: u64, len_bytes: u32) -> Result<()> {
        let mut words = 0x2560_9513_u32.to_be_bytes().to_vec();
        words.extend([0, 0]);
        words.extend(command.to_be_bytes());
        words.extend(7_u64.to_be_bytes());
        words.extend(offset.to_be_bytes());
        words.extend(len_bytes.to_be_bytes());
        self.0.write_all(&words)?;
        let mut answer = [0; 16];
        self.0.read_exact(&mut answer)?;
        if answer[4..8] != [0; 4] {
            return Err(format!("request {command} failed").into());
        }
        if command == 0 {
            let mut data = vec![0; usize::try_from(len_bytes)?];
            self.0.read_exact(&mut data)?;
        }
        Ok(())
    }
}

/// The least, the median and the most of some ratios.
pub fn spread(ratios: &mut [f64]) -> Result<[f64; 3]> {
    ratios.sort_by(f64::total_cmp);
    match (ratios.first(), ratios.get(ratios.len() / 2), ratios.last()) {
        (Some(least), Some(median), Some(most)) => Ok([*least, *median, *most]),
        _ => Err("no pairs".into()),
    }
}
