//! TCP (RFC 9293), UDP (RFC 768) and ICMP (RFC 792).

use tokio::io::AsyncWriteExt;

use super::{
    Beast, Den, answering, bye, den, deserted, from_elsewhere, full, pouring, reset, serving, silent,
};

const FIELDS: &str = "address = '127.0.0.1:PORT'\n";
const TARGET: &str = "127.0.0.1:PORT";

fn tcp(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "tcp", den).asked(FIELDS).theirs("tcp", TARGET, "")
}

/// Waits for `ready`, in our words and in theirs.
fn ready(name: &'static str, does: &'static str, den: Den) -> Beast {
    tcp(name, does, den).asked(&format!("{FIELDS}expect = 'ready'\n")).theirs(
        "tcp",
        TARGET,
        "query_response: [{expect: ready}]",
    )
}

/// The exporter has no prober for datagrams.
fn udp(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "udp", den)
        .asked(&format!("{FIELDS}send = 'ping'\nexpect = {{ is = 'pong' }}\n"))
        .within("2s")
}

pub(super) fn all() -> Vec<Beast> {
    let says = |words: &'static [u8]| {
        serving(move |mut stream| async move {
            let _ = stream.write_all(words).await;
            bye(stream).await;
        })
    };
    vec![
        tcp("port-without-a-server", "does not listen", deserted()).bad("connection refused by PEER"),
        tcp("port-that-takes-nobody", "listens, and its queue is full", den(|_| full()))
            .within("2s")
            .bad("no connection within 2 s"),
        tcp("closes-at-once", "accepts and closes, where no more is asked", serving(bye)),
        ready("closes-without-a-word", "accepts and closes, where a word is expected", serving(bye))
            .bad("PEER closed the connection without a word"),
        ready("resets-without-a-word", "accepts and resets", serving(reset)).bad("connection reset by PEER"),
        ready("other-words", "says something else and closes", says(b"busy\n"))
            .bad("the answer does not contain `ready`; it begins `busy`"),
        ready("silent-port", "accepts and says nothing", serving(silent)).within("2s").bad("no answer within 2 s"),
        ready("words-in-pieces", "says what is expected a byte at a time", serving(|mut stream| async move {
            for byte in b"I am ready\n" {
                let _ = stream.write_all(&[*byte]).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            bye(stream).await;
        })),
        ready("words-without-an-end", "says what is expected, and does not end the line", serving(|mut stream| async move {
            let _ = stream.write_all(b"ready").await;
            silent(stream).await;
        }))
        .within("2s")
        .differs("it reads lines, and waits for the end of this one"),
        ready("endless-babble", "says something else for ever", serving(|stream| pouring(stream, b"busy".to_vec())))
            .bad("the first 64 KiB of the answer does not contain `ready`; it begins `busybusybusybusybusybusybusybusybusybusybusybusybusybusybusy...`"),
        tcp("words-before-tls", "says more in the clear, where TLS is to begin (CVE-2011-0411)", serving(|mut stream| async move {
            let _ = stream.write_all(b"220 go\n250 injected\n").await;
            silent(stream).await;
        }))
        .asked("address = 'localhost:PORT'\nscript = [{ regex = '^220 .*\\n' }, { tls = { insecure = true } }]\n")
        .theirs("tcp", "localhost:PORT", "preferred_ip_protocol: ip4, query_response: [{expect: '^220 '}, {starttls: true}], tls_config: {insecure_skip_verify: true}")
        .within("2s")
        .bad("PEER said more before TLS began: `250 injected`"),
        udp("datagram-answered", "answers", answering(|_| vec![b"pong".to_vec()])),
        udp("datagram-answered-wrongly", "answers something else", answering(|_| vec![b"busy".to_vec()]))
            .bad("the answer is `busy`, expected `pong`"),
        udp("datagram-not-answered", "does not answer", answering(|_| Vec::new())).bad("no answer within 2 s"),
        udp("datagram-from-elsewhere", "answers from another port", den(|_| from_elsewhere(|_| b"pong".to_vec())))
            .bad("no answer within 2 s"),
        udp("datagram-to-nobody", "does not listen", deserted()).bad("connection refused by PEER"),
        Beast::new("echo", "answers echo requests", "icmp", deserted())
            .asked("host = '127.0.0.1'\n")
            .theirs("icmp", "127.0.0.1", ""),
    ]
}
