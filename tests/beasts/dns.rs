//! DNS: RFC 1035, RFC 2181, RFC 2308, RFC 5452, RFC 7766.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Beast, Den, answering, bye, den, deserted, from_elsewhere, serving, silent};

const NAME: &str = "shop.example";
const TARGET: &str = "127.0.0.1:PORT";
const FIELDS: &str = "address = '127.0.0.1:PORT'\nname = 'shop.example'\n";

/// Asks by datagram for an address, any.
fn dns(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "dns", den).asked(FIELDS).theirs(
        "dns",
        TARGET,
        &format!("query_name: {NAME}, query_type: A"),
    )
}

/// Asks by datagram for this address.
fn address(name: &'static str, does: &'static str, den: Den) -> Beast {
    dns(name, does, den)
        .asked(&format!("{FIELDS}expect = {{ answer = ['IN A 192\\.0\\.2\\.7'] }}\n"))
        .theirs(
            "dns",
            TARGET,
            "query_name: shop.example, query_type: A, validate_answer_rrs: {fail_if_not_matches_regexp: ['\\tIN\\tA\\t192\\.0\\.2\\.7']}",
        )
}

/// Asks over TCP.
fn stream(name: &'static str, does: &'static str, den: Den) -> Beast {
    dns(name, does, den).asked(&format!("{FIELDS}protocol = 'tcp'\n")).theirs(
        "dns",
        TARGET,
        "transport_protocol: tcp, query_name: shop.example, query_type: A",
    )
}

/// An answer to a question, by its head's second and third byte and its records: (answers, of the authorities, additional).
struct Answer {
    flags: [u8; 2],
    counts: [u8; 3],
    records: Vec<u8>,
}

const QR: u8 = 0x80;
const AA: u8 = 0x04;
const TC: u8 = 0x02;

impl Answer {
    fn of(flags: [u8; 2]) -> Self {
        Self { flags, counts: [0; 3], records: Vec::new() }
    }

    /// A record of the name that was asked for.
    fn record(mut self, section: usize, kind: u8, data: &[u8]) -> Self {
        self.counts[section] += 1;
        self.records.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        self.records.extend(data);
        self
    }

    fn to(&self, question: &[u8]) -> Vec<u8> {
        let end = asked(question).len() + 12;
        let [answers, authorities, additional] = self.counts;
        let mut bytes = question[..2].to_vec();
        bytes.extend([
            self.flags[0] | question[2] & 1,
            self.flags[1],
            0,
            1,
            0,
            answers,
            0,
            authorities,
            0,
            additional,
        ]);
        bytes.extend(&question[12..end]);
        bytes.extend(&self.records);
        bytes
    }
}

/// The question itself: a name, a type, a class.
fn asked(question: &[u8]) -> &[u8] {
    let mut at = 12;
    while question[at] != 0 {
        at += usize::from(question[at]) + 1;
    }
    &question[12..at + 5]
}

fn right() -> Answer {
    Answer::of([QR, 0x80]).record(0, 1, &[192, 0, 2, 7])
}

/// Answers each datagram by what is made of it.
fn by(answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static) -> Den {
    answering(move |question| vec![answer(question)])
}

fn always(answer: fn() -> Answer) -> Den {
    by(move |question| answer().to(question))
}

/// Answers over TCP by what is made of the question, length and all.
fn streaming(answer: fn(&[u8]) -> Vec<u8>) -> Den {
    serving(move |mut stream: TcpStream| async move {
        let Ok(length) = stream.read_u16().await else { return };
        let mut question = vec![0; usize::from(length)];
        let _ = stream.read_exact(&mut question).await;
        let _ = stream.write_all(&answer(&question)).await;
        bye(stream).await;
    })
}

fn framed(length: usize, bytes: &[u8]) -> Vec<u8> {
    [&(length as u16).to_be_bytes()[..], bytes].concat()
}

/// `ns.other.example`, as records hold it.
const OTHER: &[u8] = b"\x02ns\x05other\x07example\0";

pub(super) fn all() -> Vec<Beast> {
    [answers(), forgeries(), streams()].into_iter().flatten().collect()
}

fn answers() -> Vec<Beast> {
    vec![
        address("right-address", "answers rightly", always(right)),
        address(
            "wrong-address",
            "answers with another address",
            always(|| Answer::of([QR, 0x80]).record(0, 1, &[192, 0, 2, 8])),
        )
        .bad("no record in the section `answer` matches `IN A 192\\.0\\.2\\.7`"),
        dns("nxdomain", "says that there is no such name", always(|| Answer::of([QR, 0x83])))
            .bad("the answer is NXDOMAIN, expected NOERROR"),
        dns(
            "nxdomain-wanted",
            "says that there is no such name, where that is expected",
            always(|| Answer::of([QR, 0x83])),
        )
        .asked(&format!("{FIELDS}expect = {{ rcode = 'NXDOMAIN' }}\n"))
        .theirs("dns", TARGET, "query_name: shop.example, query_type: A, valid_rcodes: [NXDOMAIN]"),
        dns("servfail", "says that it failed", always(|| Answer::of([QR, 0x82])))
            .bad("the answer is SERVFAIL, expected NOERROR"),
        dns("refused", "refuses", always(|| Answer::of([QR, 0x85])))
            .bad("the answer is REFUSED, expected NOERROR"),
        dns(
            "rcode-unknown",
            "answers with a code that nobody has given a meaning",
            always(|| Answer::of([QR, 0x8c])),
        )
        .bad("the answer is RCODE12, expected NOERROR"),
        address("no-data", "knows the name, and no address of it", always(|| Answer::of([QR, 0x80])))
            .bad("there is no record in the section `answer`, expected `IN A 192\\.0\\.2\\.7`"),
        address(
            "lame",
            "knows nothing, and refers to another server",
            always(|| Answer::of([QR, 0]).record(1, 2, OTHER)),
        )
        .bad("there is no record in the section `answer`, expected `IN A 192\\.0\\.2\\.7`"),
        dns("lame-for-its-zone", "is asked as the authority, and answers as none", always(right))
            .asked(&format!("{FIELDS}recurse = false\nexpect = {{ authoritative = true }}\n"))
            .theirs("dns", TARGET, "query_name: shop.example, query_type: A, recursion_desired: false")
            .bad("the answer comes from no authority for the name")
            .differs("it cannot expect authority"),
        dns(
            "authority",
            "is asked as the authority, and is one",
            always(|| Answer::of([QR | AA, 0]).record(0, 1, &[192, 0, 2, 7])),
        )
        .asked(&format!("{FIELDS}recurse = false\nexpect = {{ authoritative = true }}\n"))
        .theirs("dns", TARGET, "query_name: shop.example, query_type: A, recursion_desired: false"),
        address(
            "cut-short",
            "cuts its answer short, to be asked again over TCP",
            always(|| Answer::of([QR | TC, 0x80])),
        )
        .bad("the answer is cut short: it does not fit into a datagram"),
        dns(
            "name-in-capitals",
            "repeats the question in capitals, which are the same letters",
            by(|question| {
                let mut answer = right().to(question);
                answer[12..=12 + NAME.len()].make_ascii_uppercase();
                answer
            }),
        ),
        dns("silent-server", "does not answer", answering(|_| Vec::new()))
            .within("2s")
            .bad("no answer within 2 s"),
        dns("no-server", "does not listen", deserted()).bad("connection refused by PEER"),
    ]
}

fn forgeries() -> Vec<Beast> {
    let other_id = |question: &[u8]| {
        let mut answer = right().to(question);
        answer[1] ^= 1;
        answer
    };
    vec![
        dns("wrong-id", "answers with another id", by(other_id))
            .within("2s")
            .bad("no answer within 2 s: what came has another id"),
        dns(
            "wrong-id-first",
            "answers with another id, then with ours",
            answering(move |question| vec![other_id(question), right().to(question)]),
        ),
        dns(
            "wrong-question",
            "answers a question that nobody asked",
            by(|question| {
                let mut answer = right().to(question);
                answer[13] ^= 1;
                answer
            }),
        )
        .within("2s")
        .bad("no answer within 2 s: what came answers another question")
        .differs("it looks at the id, and not at the question"),
        dns("mirror", "sends the question back", by(<[u8]>::to_vec))
            .within("2s")
            .bad("no answer within 2 s: what came is a question")
            .differs("it looks at the id, and takes its own question for an answer"),
        dns("noise", "sends bytes that are no message", by(|_| b"hello".to_vec()))
            .within("2s")
            .bad("no answer within 2 s: what came is no message of DNS"),
        dns(
            "half-a-record",
            "answers with a record that is cut off",
            by(|question| {
                let answer = right().to(question);
                answer[..answer.len() - 2].to_vec()
            }),
        )
        .within("2s")
        .bad("no answer within 2 s: what came is no message of DNS"),
        dns(
            "circle-of-names",
            "answers with a name that points at itself",
            by(|question| {
                let mut answer = right().to(question);
                let at = asked(question).len() + 12;
                answer[at..at + 2].copy_from_slice(&[0xc0, at as u8]);
                answer
            }),
        )
        .within("2s")
        .bad("no answer within 2 s: what came is no message of DNS"),
        dns(
            "answer-from-elsewhere",
            "answers from another port",
            den(|_| from_elsewhere(|question| right().to(question))),
        )
        .within("2s")
        .bad("no answer within 2 s"),
    ]
}

fn streams() -> Vec<Beast> {
    vec![
        stream(
            "stream-right",
            "answers rightly over TCP",
            streaming(|question| {
                let answer = right().to(question);
                framed(answer.len(), &answer)
            }),
        ),
        stream(
            "stream-cut",
            "promises 500 bytes over TCP and closes before",
            streaming(|question| framed(500, &right().to(question))),
        )
        .bad("PEER closed the connection in the middle of the answer"),
        stream("stream-closed", "takes the question over TCP and closes", streaming(|_| Vec::new()))
            .bad("PEER closed the connection without an answer"),
        stream("stream-empty", "answers over TCP with a message of no bytes", streaming(|_| vec![0, 0]))
            .bad("PEER does not answer the question: what came is no message of DNS"),
        stream(
            "stream-wrong-id",
            "answers over TCP with another id",
            streaming(|question| {
                let mut answer = right().to(question);
                answer[1] ^= 1;
                framed(answer.len(), &answer)
            }),
        )
        .bad("PEER does not answer the question: what came has another id"),
        stream("stream-silent", "takes the question over TCP and says nothing", serving(silent))
            .within("2s")
            .bad("no answer within 2 s"),
        stream("stream-of-datagrams-only", "does not listen for TCP", deserted())
            .bad("connection refused by PEER"),
    ]
}
