//! What is asked, and what is said instead of the server.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};

/// What we can take in over UDP, as we say to whoever tells us the same (RFC 9715: what is not cut to pieces on its way).
const PAYLOAD: u16 = 1232;

/// A question for records of a name.
#[derive(Debug, Clone)]
pub(super) struct Lookup(Message);

impl Lookup {
    /// Reads one; `None` for whatever else it may be.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        let Metadata { message_type, op_code, .. } = message.metadata;
        let asks = message_type == MessageType::Query && op_code == OpCode::Query;
        (asks && message.queries.len() == 1).then_some(Self(message))
    }

    /// What is asked.
    pub(super) fn query(&self) -> &Query {
        &self.0.queries[0]
    }

    /// The answer to it: of these addresses those of the version that is asked for, to be forgotten at once.
    pub(super) fn answered(&self, reply: &Reply) -> Option<Vec<u8>> {
        let asked = &self.0;
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata = Metadata::response_from_request(&asked.metadata);
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = reply.code;
        answer.add_query(self.query().clone());
        let Query { name, query_type, .. } = self.query();
        let data = reply.addresses.iter().filter_map(|address| match (address, query_type) {
            (IpAddr::V4(four), RecordType::A) => Some(RData::A((*four).into())),
            (IpAddr::V6(six), RecordType::AAAA) => Some(RData::AAAA((*six).into())),
            _ => None,
        });
        answer.add_answers(data.map(|data| Record::from_rdata(name.clone(), 0, data)));
        if let Some(theirs) = &asked.edns {
            // Only who speaks it is answered in it (RFC 6891, section 7), and nothing is signed.
            let mut ours = Edns::new();
            ours.set_max_payload(PAYLOAD).set_dnssec_ok(theirs.flags().dnssec_ok);
            answer.set_edns(ours);
        }
        answer.to_vec().ok()
    }
}

/// What is said instead of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub code: ResponseCode,
    pub addresses: Vec<IpAddr>,
}

/// Takes messages out of a stream, each behind its length (RFC 1035, section 4.2.2), and what is left of it.
pub(super) fn messages(mut bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let Some((message, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            break;
        };
        messages.push(message);
        bytes = rest;
    }
    (messages, bytes)
}

/// A message as it stands in a stream.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `dig +dnssec +cookie` asks, with the case of letters as some resolvers have it.
    fn asked(name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(hickory_proto::rr::Name::from_ascii(name).unwrap(), kind));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(4096).set_dnssec_ok(true);
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    fn reply(code: ResponseCode, addresses: &[&str]) -> Reply {
        Reply { code, addresses: addresses.iter().map(|text| text.parse().unwrap()).collect() }
    }

    #[test]
    fn an_answer_echoes_the_number_the_question_and_its_very_letters_and_is_never_kept() {
        let question = asked("dB.ExAmple.com.", RecordType::A, false);
        let wrong = reply(ResponseCode::NoError, &["10.9.9.9", "fd00::9", "10.9.9.8"]);
        let bytes = Lookup::read(&question).unwrap().answered(&wrong).unwrap();
        // Behind the header, the question is the same byte for byte.
        assert_eq!(bytes[12..question.len()], question[12..]);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!((answer.metadata.id, answer.metadata.message_type), (4711, MessageType::Response));
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        assert!(!answer.metadata.authoritative && !answer.metadata.truncation && answer.edns.is_none());
        let told: Vec<(u32, String)> = answer.answers.iter().map(|r| (r.ttl, r.data.to_string())).collect();
        assert_eq!(told, [(0, "10.9.9.9".to_owned()), (0, "10.9.9.8".to_owned())]);
    }

    #[test]
    fn each_version_gets_its_addresses_and_without_any_there_are_no_records() {
        let wrong = reply(ResponseCode::NoError, &["10.9.9.9"]);
        let answer = |kind| {
            let question = asked("db.example.com.", kind, true);
            Message::from_vec(&Lookup::read(&question).unwrap().answered(&wrong).unwrap()).unwrap()
        };
        assert_eq!(answer(RecordType::A).answers.len(), 1);
        let six = answer(RecordType::AAAA);
        assert_eq!((six.answers.len(), six.metadata.response_code), (0, ResponseCode::NoError));
        let edns = six.edns.unwrap();
        assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, PAYLOAD, true));
    }

    #[test]
    fn the_longest_answer_needs_no_second_try_over_tcp() {
        let name = format!("{}a.", "abcdefgh.".repeat(27));
        let six: Vec<String> = (1..=super::super::MOST_ADDRESSES).map(|n| format!("fd00::{n}")).collect();
        let six: Vec<&str> = six.iter().map(String::as_str).collect();
        let question = asked(&name, RecordType::AAAA, true);
        let bytes = Lookup::read(&question).unwrap().answered(&reply(ResponseCode::NoError, &six)).unwrap();
        assert!(bytes.len() <= 512, "{}", bytes.len());
    }

    #[test]
    fn what_is_no_question_is_let_alone() {
        let question = asked("db.example.com.", RecordType::A, true);
        let answer = Lookup::read(&question).unwrap().answered(&reply(ResponseCode::NXDomain, &[])).unwrap();
        assert!(Lookup::read(&answer).is_none(), "an answer");
        let mut update = question.clone();
        update[2] |= 5 << 3; // RFC 2136
        assert!(Lookup::read(&update).is_none(), "an update");
        assert!(Lookup::read(&question[..question.len() - 1]).is_none() && Lookup::read(b"").is_none());
    }

    #[test]
    fn a_stream_is_taken_apart_wherever_it_is_cut() {
        let whole = [framed(b"one"), framed(b""), framed(b"three")].concat();
        for cut in 0..=whole.len() {
            let (mut found, rest) = messages(&whole[..cut]);
            let rest = [rest, &whole[cut..]].concat();
            let (more, left) = messages(&rest);
            found.extend(more);
            assert_eq!((found, left.len()), (vec![&b"one"[..], b"", b"three"], 0));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..100), flip in 0usize..60, value: u8) {
            let mut near = asked("db.example.com.", RecordType::A, true);
            let at = flip % near.len();
            near[at] = value;
            for bytes in [&bytes, &near] {
                if let Some(lookup) = Lookup::read(bytes) {
                    let _ = lookup.answered(&reply(ResponseCode::NoError, &["10.9.9.9"]));
                }
                let _ = messages(bytes);
            }
        }
    }
}
