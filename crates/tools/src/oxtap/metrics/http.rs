//! As much of HTTP/1.1 as a scraper needs: one request, one answer, the end. Whoever connects is a stranger: what he
//! says is bounded in length and time, and there are only so many of him at once.

use std::{
    io,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::peer::Peer;

/// What a stranger may use up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at the same time; one more is told to come again.
    pub(super) connections: usize,
    /// The request line and all headers.
    pub(super) head_bytes: usize,
    /// From the first byte asked for to the last byte taken.
    pub(super) patience: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { connections: 32, head_bytes: 8 << 10, patience: Duration::from_secs(15) }
    }
}

/// How long the end of a connection may take.
const END_MAX: Duration = Duration::from_secs(1);
/// What is taken at the end from somebody who sends more than was asked for.
const END_BYTES_MAX: usize = 256 << 10;
/// Rest after a connection could not be taken: the reason, no descriptors for one, does not pass at once.
const REST: Duration = Duration::from_millis(100);
/// Connections get threads; they have little to remember.
const STACK_BYTES: usize = 256 << 10;

/// Where to listen.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| stream.into()),
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| stream.into()),
        }
    }
}

/// One page under one address.
pub(super) struct Page {
    /// Its path.
    pub(super) path: &'static str,
    /// What it is.
    pub(super) content_type: &'static str,
    /// Makes it anew.
    pub(super) render: Box<dyn Fn() -> String + Send + Sync>,
}

/// Answers for ever, on as many threads as there are connections, and no more than `bounds` allows.
pub(super) fn serve(listener: &Listener, page: Page, bounds: Bounds) -> ! {
    let (page, connections) = (Arc::new(page), Arc::new(AtomicUsize::new(0)));
    loop {
        let Ok(socket) = listener.accept() else {
            thread::sleep(REST);
            continue;
        };
        let Some(place) = Place::take(&connections, bounds.connections) else {
            // Without waiting for him: what fits into the socket is what he gets.
            let _ = Peer::new(socket, Duration::ZERO).write(&Answer::plain("503 Service Unavailable").bytes(true));
            continue;
        };
        let page = Arc::clone(&page);
        let answering = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _place = place;
            // He went away, or took too long: nobody is left who could be told.
            let _ = answer(Peer::new(socket, bounds.patience), &page, bounds.head_bytes);
        });
        if answering.is_err() {
            thread::sleep(REST);
        }
    }
}

/// The right to one connection; given back when it goes out of scope.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Place> {
        // Only the accepting thread adds.
        if count.load(Relaxed) >= most {
            return None;
        }
        count.fetch_add(1, Relaxed);
        Some(Place(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn answer(peer: Peer, page: &Page, head_bytes: usize) -> io::Result<()> {
    let (answer, with_body) = match read_head(&peer, head_bytes) {
        Ok(head) => reply(&head, page),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            (Answer::plain("431 Request Header Fields Too Large"), true)
        }
        Err(_) => (Answer::plain("400 Bad Request"), true),
    };
    peer.write(&answer.bytes(with_body))?;
    peer.end(END_MAX, END_BYTES_MAX)
}

/// Everything up to the empty line.
fn read_head(peer: &Peer, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut bytes = [0; 2048];
    loop {
        if let Some(end) = end_of_head(&head) {
            head.truncate(end);
            return Ok(head);
        }
        if head.len() >= bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match peer.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&bytes[..length]),
        }
    }
}

/// Where the head ends, if all of it is there. Lines may end without a carriage return.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let ends = [&b"\r\n\r\n"[..], b"\n\n"].map(|end| bytes.windows(end.len()).position(|window| window == end));
    ends.into_iter().flatten().min()
}

/// What to answer, and whether its body is sent.
fn reply(head: &[u8], page: &Page) -> (Answer, bool) {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return (Answer::plain("400 Bad Request"), true) };
    let words: Vec<&str> = line.trim_end_matches('\r').split(' ').collect();
    let [method, target, version] = words[..] else { return (Answer::plain("400 Bad Request"), true) };
    let with_body = method != "HEAD";
    if !version.starts_with("HTTP/1.") {
        return (Answer::plain("505 HTTP Version Not Supported"), with_body);
    }
    let path = target.split('?').next().unwrap_or_default();
    let answer = match method {
        _ if path != page.path => Answer::plain("404 Not Found"),
        "GET" | "HEAD" => Answer { status: "200 OK", content_type: page.content_type, more: "", body: (page.render)() },
        _ => Answer { more: "Allow: GET, HEAD\r\n", ..Answer::plain("405 Method Not Allowed") },
    };
    (answer, with_body)
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    /// Further headers, each with its end of line.
    more: &'static str,
    body: String,
}

impl Answer {
    fn plain(status: &'static str) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", more: "", body: format!("{status}\n") }
    }

    fn bytes(&self, with_body: bool) -> Vec<u8> {
        let Answer { status, content_type, more, body } = self;
        let length = body.len();
        let body = if with_body { body.as_str() } else { "" };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{more}\
             Connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        time::Instant,
    };

    /// A hang limit.
    const LIMIT: Duration = Duration::from_secs(60);

    fn page() -> Page {
        Page { path: "/metrics", content_type: "text/x", render: Box::new(|| "body\n".repeat(100_000)) }
    }

    fn start(bounds: Bounds) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || serve(&Listener::Tcp(listener), page(), bounds));
        address
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = connect(address);
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_page_is_answered_whole_and_with_its_length() {
        let address = start(Bounds::default());
        let answer = exchange(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 500000\r\nConnection: close");
        assert_eq!(body.len(), 500_000);
        let head_only = exchange(address, b"HEAD /metrics?x=1 HTTP/1.0\n\n");
        assert!(head_only.ends_with("Content-Length: 500000\r\nConnection: close\r\n\r\n"), "{head_only}");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let address = start(Bounds::default());
        let status = |request: &[u8]| exchange(address, request).lines().next().unwrap().to_owned();
        assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(status(b"GET /metrics HTTP/2.0\r\n\r\n"), "HTTP/1.1 505 HTTP Version Not Supported");
        assert_eq!(status(b"\x16\x03\x01\xff\n\n"), "HTTP/1.1 400 Bad Request");
        assert_eq!(status(b"GET\r\n\r\n"), "HTTP/1.1 400 Bad Request");
    }

    #[test]
    fn a_head_without_end_is_refused_although_more_is_on_its_way() {
        let address = start(Bounds::default());
        let endless = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 100_000]].concat();
        let answer = exchange(address, &endless);
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn one_who_dribbles_is_left_when_his_time_is_over() {
        let address = start(Bounds { patience: Duration::from_millis(100), ..Bounds::default() });
        let mut slow = connect(address);
        let started = Instant::now();
        let is_left = loop {
            // Each byte is soon enough; together they never end.
            if slow.write_all(b"G").is_err() {
                break true;
            }
            if started.elapsed() > LIMIT {
                break false;
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert!(is_left, "he still has his connection");
        assert!(exchange(address, b"GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK"));
    }

    #[test]
    fn one_who_does_not_read_is_left_too() {
        let address = start(Bounds { connections: 1, patience: Duration::from_millis(100), ..Bounds::default() });
        let mut deaf = connect(address);
        deaf.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let started = Instant::now();
        while !exchange_if_any(address).starts_with("HTTP/1.1 200 OK") {
            assert!(started.elapsed() < LIMIT, "his place is never free");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_crowd_gets_only_so_many_places_and_the_next_ones_are_told() {
        let address = start(Bounds { connections: 2, patience: LIMIT, ..Bounds::default() });
        let crowd = [connect(address), connect(address)];
        let refused = exchange_if_any(address);
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
        drop(crowd);
        let started = Instant::now();
        while !exchange_if_any(address).starts_with("HTTP/1.1 200 OK") {
            assert!(started.elapsed() < LIMIT, "the places are never free again");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// As `exchange`; one who is turned away may lose the connection before he has read why.
    fn exchange_if_any(address: SocketAddr) -> String {
        let mut stream = connect(address);
        let mut answer = Vec::new();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}
