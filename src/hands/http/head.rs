//! Heads of HTTP/1 messages: where they end, and how long what follows is (RFC 9112).

use super::body::Body;

/// A longer head is not read: what has one is passed on as it is.
pub(super) const LONGEST: usize = 64 * 1024;
const MOST_FIELDS: usize = 256;

/// What some bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<T> {
    /// The beginning of a head.
    Partial,
    /// A head, whole.
    Whole(T),
    /// Something else, or a head whose end or whose body cannot be told for certain.
    Strange,
}

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Its bytes.
    pub length: usize,
    pub method: String,
    /// As it stands in the first line.
    pub target: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Body,
    /// Whether the client waits for a word before it sends the body.
    pub expects: bool,
    /// Whether the connection is over with the answer.
    pub last: bool,
    /// Whether what follows may not be HTTP.
    pub upgrades: bool,
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    /// Its bytes.
    pub length: usize,
    pub status: u16,
    pub body: Body,
}

pub(super) fn question(bytes: &[u8]) -> Read<Question> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Read::Partial,
        _ => return Read::Strange,
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Read::Strange;
    };
    let says = |name: &str, word: &str| lists(request.headers, name, word);
    // A request with both lengths is how requests are smuggled; without either it has no body.
    let body = match (length_of(request.headers), coding(request.headers)) {
        (Ok(None), None) => Body::None,
        (Ok(Some(length)), None) => Body::Sized(length),
        (Ok(None), Some(true)) => Body::chunked(),
        _ => return Read::Strange,
    };
    let upgrades = method == "CONNECT" || says("upgrade", "") && says("connection", "upgrade");
    Read::Whole(Question {
        length,
        method: method.to_owned(),
        target: target.to_owned(),
        fields: request.headers.iter().map(|f| (f.name.to_owned(), f.value.to_vec())).collect(),
        body,
        expects: says("expect", "100-continue"),
        last: says("connection", "close") || minor == 0,
        upgrades,
    })
}

/// The head of the answer to a question; `bare` when it is to HEAD, so that no body follows.
pub(super) fn answer(bytes: &[u8], bare: bool) -> Read<Answered> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Read::Partial,
        _ => return Read::Strange,
    };
    let Some(status) = response.code else { return Read::Strange };
    let none = bare || status < 200 || status == 204 || status == 304;
    let body = match (length_of(response.headers), coding(response.headers)) {
        _ if none => Body::None,
        (_, Some(true)) => Body::chunked(),
        (Ok(Some(length)), None) => Body::Sized(length),
        (Ok(None), _) => Body::ToEnd,
        _ => return Read::Strange,
    };
    Read::Whole(Answered { length, status, body })
}

/// The declared length, if there is one; an error when it is none, or several.
fn length_of(fields: &[httparse::Header<'_>]) -> Result<Option<u64>, ()> {
    let mut declared = None;
    for text in values(fields, "content-length").flat_map(|value| value.split(|byte| *byte == b',')) {
        let text = text.trim_ascii();
        let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(text).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        match (length, declared) {
            (Some(length), None) => declared = Some(length),
            (Some(length), Some(before)) if length == before => {}
            _ => return Err(()),
        }
    }
    Ok(declared)
}

/// Whether the last transfer coding is `chunked`; `None` without one.
fn coding(fields: &[httparse::Header<'_>]) -> Option<bool> {
    let last = values(fields, "transfer-encoding").last()?;
    let last = last.split(|byte| *byte == b',').next_back().unwrap_or_default();
    Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

fn values<'a>(fields: &'a [httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Whether a field lists a word; the empty word stands for any.
fn lists(fields: &[httparse::Header<'_>], name: &str, word: &str) -> bool {
    values(fields, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|listed| word.is_empty() || listed.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// A head without some fields and with others at its end. Everything else stays, byte for byte.
pub(super) fn with(head: &[u8], without: &[&str], more: &[(String, String)]) -> Vec<u8> {
    let mut written = Vec::with_capacity(head.len() + 128);
    for (number, line) in head.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let gone = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let replaced = without.iter().copied().chain(more.iter().map(|(name, _)| name.as_str())).any(gone);
        if number > 0 && (replaced || line.trim_ascii().is_empty()) {
            continue;
        }
        written.extend_from_slice(line);
    }
    for (name, value) in more {
        written.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    written.extend_from_slice(b"\r\n");
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Question {
        match question(text.as_bytes()) {
            Read::Whole(question) => question,
            other => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn a_request_tells_what_follows_it() {
        let get = asked("GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nGET /next");
        assert_eq!((get.length, get.method.as_str(), get.target.as_str()), (30, "GET", "/a?b"));
        assert_eq!((&get.body, get.last, get.upgrades, get.expects), (&Body::None, false, false, false));
        assert_eq!(asked("POST / HTTP/1.1\r\ncontent-length: 7\r\n\r\n").body, Body::Sized(7));
        assert_eq!(asked("POST / HTTP/1.1\r\nContent-Length: 7, 7\r\n\r\n").body, Body::Sized(7));
        let chunked =
            asked("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!((chunked.body, chunked.expects), (Body::chunked(), true));
        assert!(
            asked("GET / HTTP/1.0\r\n\r\n").last
                && asked("GET / HTTP/1.1\r\nConnection: a, Close\r\n\r\n").last
        );
        assert!(asked("GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").upgrades);
        assert!(asked("CONNECT a:443 HTTP/1.1\r\n\r\n").upgrades);
    }

    #[test]
    fn what_is_no_request_or_could_be_read_in_two_ways_is_strange() {
        for text in [
            "PING\r\n",
            "\u{16}\u{3}\u{1}",
            "GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            "GET / HTTP/3.1\r\n\r\n",
        ] {
            assert_eq!(question(text.as_bytes()), Read::Strange, "{text:?}");
        }
        assert_eq!(question(b"GET / HTTP/1.1\r\nHo"), Read::Partial);
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(LONGEST));
        assert_eq!(question(long.as_bytes()), Read::Strange);
    }

    #[test]
    fn an_answer_tells_what_follows_it() {
        let body = |text: &str, bare| match answer(text.as_bytes(), bare) {
            Read::Whole(answered) => answered.body,
            other => panic!("{text:?} is {other:?}"),
        };
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", false), Body::Sized(3));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true), Body::None);
        assert_eq!(body("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", false), Body::None);
        assert_eq!(body("HTTP/1.1 100 Continue\r\n\r\n", false), Body::None);
        assert_eq!(
            body("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", false),
            Body::chunked()
        );
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\n", false), Body::ToEnd);
        assert_eq!(answer(b"+OK\r\n", false), Read::Strange);
    }

    #[test]
    fn a_head_is_changed_only_where_it_was_asked() {
        let head = b"HTTP/1.1 200 Fine\r\nX-Odd:  y \r\ncontent-LENGTH: 3\r\nServer: z\r\n\r\n";
        let changed = with(head, &["content-length"], &[("Server".to_owned(), "w".to_owned())]);
        let wanted = "HTTP/1.1 200 Fine\r\nX-Odd:  y \r\nServer: w\r\n\r\n";
        assert_eq!(String::from_utf8(changed).unwrap(), wanted);
    }
}
