//! Lookups of our own, by which it is seen what others get.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};

use super::fates::{Deed, Watch};
use super::{Dns, Names as Meant, Reply};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::fault::traffic::{Clients, clients};
use crate::fault::{Effect, Held, Site};
use crate::host::lookup::{self, Got, ask};
use crate::host::names::Names;
use crate::host::network::Network;
use crate::host::socket::Protocol;

/// An answer that takes longer than was asked, and this, is none.
const PATIENCE: Duration = Duration::from_secs(1);
/// A packet may be lost by itself: what is not as asked is asked again, so often in all.
const TRIES: u32 = 3;
/// Names that nobody has (RFC 2606, section 2).
const NOBODY: &str = "brownout-looks.invalid.";
const UNNAMED: &str = "brownout-looks-whether-this-is-spared.invalid.";

/// What our own lookups got before the harm.
pub(super) struct Before {
    /// Where we ask: the first server of this host, in the network in which the fault acts.
    server: Option<SocketAddr>,
    named: Question,
    /// Over UDP and over TCP. `None` when the fault does not meet what we ask.
    got: Option<[Got; 2]>,
    /// One that nobody named, or that is not of those who are named.
    spared: Option<(Question, Got)>,
}

#[derive(Debug, Clone)]
struct Question {
    network: Network,
    name: Name,
    kind: RecordType,
}

impl Question {
    async fn ask(
        &self,
        server: SocketAddr,
        protocol: Protocol,
        late: Duration,
        from: impl FnOnce(u16),
    ) -> Got {
        ask(&self.network, server, protocol, (&self.name, self.kind), late + PATIENCE, from).await
    }

    /// Over UDP and over TCP at once.
    async fn both(&self, server: SocketAddr, late: Duration, from: impl Fn(u16)) -> [Got; 2] {
        let [udp, tcp] =
            [Protocol::Udp, Protocol::Tcp].map(|protocol| self.ask(server, protocol, late, &from));
        tokio::join!(udp, tcp).into()
    }
}

impl Dns {
    /// Looks before the harm.
    pub(super) async fn before(&self, site: &Site, network: &Network) -> Before {
        let known = |text: &str| Name::from_ascii(text).unwrap_or_default();
        let named = self.names.as_ref().and_then(Meant::one).unwrap_or_else(|| known(NOBODY));
        let six = self.addresses.as_ref().is_some_and(|all| all.0.iter().all(std::net::IpAddr::is_ipv6));
        let network = network.clone();
        let named =
            Question { network, name: named, kind: if six { RecordType::AAAA } else { RecordType::A } };
        let server = Names::of(None).servers().ok().and_then(|servers| servers.into_iter().next());
        let clients = clients(site);
        let other = match &self.names {
            Some(names) => Some(known(UNNAMED)).filter(|name| !names.fit(name)),
            None => Some(named.name.clone()).filter(|_| clients == Clients::Processes),
        };
        let (mut got, mut spared) = (None, None);
        if let Some(server) = server {
            if !matches!(clients, Clients::At(_)) {
                got = Some(named.both(server, Duration::ZERO, |_| ()).await);
            }
            if let Some(name) = other {
                let question = Question { name, ..named.clone() };
                let got = question.ask(server, Protocol::Udp, Duration::ZERO, |_| ()).await;
                spared = Some((question, got));
            }
        }
        Before { server, named, got, spared }
    }

    /// Looks again, and holds what is got against what was asked.
    pub(super) async fn proved(&self, held: &Held) -> Effect {
        let (Some(before), Some(watch)) = (held.get::<Before>(), held.get::<Arc<Watch>>()) else {
            return Effect::Unverifiable("nothing is held".to_owned());
        };
        if let (Some(server), Some(got)) = (before.server, &before.got) {
            let mut effect = None;
            for _ in 0..TRIES {
                let now = before.named.both(server, self.delay, |port| watch.is_own(port)).await;
                effect = self.judged(&before.named, got, &now);
                if !matches!(effect, Some(Effect::Mismatch(_))) {
                    break;
                }
            }
            watch.is_done();
            if let Some(effect) = effect {
                return effect;
            }
        }
        self.by_count(watch, before).await
    }

    /// What was got over UDP and TCP, if it tells anything.
    fn judged(&self, asked: &Question, before: &[Got; 2], now: &[Got; 2]) -> Option<Effect> {
        let (mut right, mut figures) = (true, Vec::new());
        for (over, (before, now)) in ["UDP", "TCP"].iter().zip(before.iter().zip(now)) {
            if let Some(one) = self.judge(asked, before, now) {
                right &= one;
                figures.push(format!("{over}: {} before, {} now", said(before), said(now)));
            }
        }
        if figures.is_empty() {
            return None;
        }
        let figures = format!("asked: {}; {} over {}", self.asked(), asked.name, figures.join("; "));
        Some(if right { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) })
    }

    /// Whether what was got is what was asked; `None` when it cannot be told.
    fn judge(&self, asked: &Question, before: &Got, now: &Got) -> Option<bool> {
        match (self.deed(), before, now) {
            (Deed::Silence, Got::Answer { .. }, now) => Some(*now == Got::Silence),
            (Deed::Late, Got::Answer { code: then, .. }, Got::Answer { code, after, .. }) => {
                Some(then == code && *after >= self.delay)
            }
            (
                Deed::Say(Reply { code: wanted, addresses }),
                _,
                Got::Answer { code, addresses: told, after },
            ) => {
                let six = asked.kind == RecordType::AAAA;
                let wrong: Vec<_> =
                    addresses.into_iter().filter(|address| address.is_ipv6() == six).collect();
                Some(wanted == *code && wrong == *told && *after >= self.delay)
            }
            (_, Got::Answer { .. }, _) => Some(false),
            _ => None,
        }
    }

    /// By what came of the lookups of others.
    async fn by_count(&self, watch: &Watch, before: &Before) -> Effect {
        let until = since_boot() + PATIENCE;
        while watch.counted().1 == 0 && since_boot() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (named, hit) = watch.counted();
        let figures = format!("asked: {}; of {named} that came by, {hit} were hit", self.asked());
        if hit > 0 {
            return Effect::Confirmed(figures);
        }
        let ours = match (&before.server, &before.got) {
            (None, _) => "; /etc/resolv.conf names no server that we could ask".to_owned(),
            (_, None) => String::new(),
            (Some(server), Some([udp, _])) => format!("; of {server} we ourselves got {}", said(udp)),
        };
        Effect::Unverifiable(figures + &ours)
    }
}

/// Asks once more what nobody named.
pub(super) async fn spared(held: &Held) -> Option<Effect> {
    let before = held.get::<Before>()?;
    let (server, (question, then)) = (before.server?, before.spared.as_ref()?);
    let Got::Answer { code: was, .. } = then else { return None };
    let mut now = Got::Silence;
    for _ in 0..TRIES {
        now = question.ask(server, Protocol::Udp, Duration::ZERO, |_| ()).await;
        if matches!(now, Got::Answer { code, .. } if code == *was) {
            break;
        }
    }
    let figures = format!("{} over UDP: {} before, {} now", question.name, said(then), said(&now));
    Some(match now {
        Got::Answer { code, .. } if code == *was => Effect::Confirmed(figures),
        _ => Effect::Mismatch(figures),
    })
}

fn said(got: &Got) -> String {
    match got {
        Got::Answer { code, addresses, after } => {
            let told: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let told = if told.is_empty() { String::new() } else { format!(" with {}", told.join(" and ")) };
            format!("{}{told} after {}", lookup::said(*code), say(*after))
        }
        Got::Silence => "no answer".to_owned(),
        Got::Nothing(why) => why.clone(),
    }
}
