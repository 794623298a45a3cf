//! `oxtap metrics`: the numbers of all disks of this host, once or for scrapers.
//!
//! ```text
//!   scraper --http--> one thread a connection --page--> families --exposition--> text
//!                                               |
//!                                 host: all tapdisks at the same time, each with bounded patience
//! ```

mod exposition;
mod families;
mod guests;
mod http;
mod peer;

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use block_core::{Error, ErrorKind, Result, ResultExt};
use control_api::RunDir;
use storage_io::Signals;

use super::{arguments::Metrics, common::Common, host, interrupt, text};

/// Where the page is.
const PATH: &str = "/metrics";
/// How old a page may be that is given out: many scrapers at once do not multiply the questions to the tapdisks.
const AGE_MAX: Duration = Duration::from_millis(250);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:/run/oxtap-metrics.socket`
    Unix(PathBuf),
    /// `127.0.0.1:9810`
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        let address = text.parse().map(Address::Tcp);
        address.map_err(|_| {
            let words = format!("{text:?} is neither unix:PATH nor ADDRESS:PORT; try 127.0.0.1:9810");
            Error::new(ErrorKind::Invalid, words)
        })
    }
}

pub(super) fn run(arguments: Metrics) -> Result<()> {
    let run = RunDir::from_environment();
    match arguments.listen {
        None => text::print(&page(&run, arguments.patience)?),
        Some(address) => serve(run, &address, arguments.allow_remote, arguments.patience),
    }
}

/// The whole page, as of now.
fn page(run: &RunDir, patience: Duration) -> Result<String> {
    let begun = Instant::now();
    let processes = host::processes_within(run, patience)?;
    Ok(families::render(&processes, &Common::read(run), begun.elapsed()))
}

fn serve(run: RunDir, address: &Address, allow_remote: bool, patience: Duration) -> Result<()> {
    // Before any thread: all of them inherit who takes the signals.
    let signals = Signals::take(&interrupt::ENDING)?;
    let listener = listen(address, allow_remote)?;
    let cache = Mutex::new(Cached { made: None, page: String::new() });
    let render = move || fresh_enough(&cache, &run, patience);
    let page = http::Page { path: PATH, content_type: exposition::CONTENT_TYPE, render: Box::new(render) };
    thread::spawn(move || http::serve(&listener, page, http::Bounds::default()));
    interrupt::wait(&signals)?;
    if let Address::Unix(path) = address {
        // Somebody may have removed it before.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

struct Cached {
    made: Option<Instant>,
    page: String,
}

/// The page, made anew if it is older than a moment. Those who ask while it is being made wait for it, on purpose: it is
/// made in bounded time, and once for all of them.
fn fresh_enough(cache: &Mutex<Cached>, run: &RunDir, patience: Duration) -> String {
    let mut cached = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if cached.made.is_none_or(|made| made.elapsed() > AGE_MAX) {
        // What cannot be listed has no tapdisks to tell of; the scraper sees that from the page.
        cached.page = page(run, patience).unwrap_or_else(|_| families::render(&[], &Common::default(), Duration::ZERO));
        cached.made = Some(Instant::now());
    }
    cached.page.clone()
}

fn listen(address: &Address, allow_remote: bool) -> Result<http::Listener> {
    match address {
        Address::Unix(path) => {
            let listener = listen_unix(path).context(path.display())?;
            text::print(&format!("metrics on unix:{}\n", path.display()))?;
            Ok(http::Listener::Unix(listener))
        }
        Address::Tcp(address) if !address.ip().is_loopback() && !allow_remote => {
            let words = format!("{address}: other hosts could connect; say --allow-remote if that is meant");
            Err(Error::new(ErrorKind::Invalid, words))
        }
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address).context(address)?;
            let taken = listener.local_addr().context(address)?;
            text::print(&format!("metrics on http://{taken}{PATH}\n"))?;
            Ok(http::Listener::Tcp(listener))
        }
    }
}

/// Listens on a path. A socket that nobody listens on any more is replaced; anything else stays.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let is_dead =
        || matches!(UnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
    if is_socket && is_dead() {
        fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_can_connect_unless_told_otherwise() {
        let everywhere = "0.0.0.0:0".parse().unwrap();
        let error = listen(&everywhere, false).err().unwrap();
        assert!(error.to_string().contains("--allow-remote"), "{error}");
        assert!(listen(&everywhere, true).is_ok());
        assert!(listen(&"[::1]:0".parse().unwrap(), false).is_ok() || !ipv6());
    }

    fn ipv6() -> bool {
        TcpListener::bind("[::1]:0").is_ok()
    }

    #[test]
    fn an_address_is_a_path_or_a_port() {
        assert_eq!("unix:/a".parse::<Address>().unwrap(), Address::Unix("/a".into()));
        assert_eq!("127.0.0.1:9810".parse::<Address>().unwrap(), Address::Tcp(([127, 0, 0, 1], 9810).into()));
        assert!("localhost".parse::<Address>().is_err());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let living = listen_unix(&path).unwrap();
        assert_eq!(listen_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(living);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(listen_unix(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
