//! Which requests are meant, and which of these are drawn.

use std::sync::{Mutex, PoisonError};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Http;
use crate::hands::http::Asked;

/// Chooses requests. The n-th that fits always meets the same fate under the same seed.
pub(super) struct Choice {
    fault: Http,
    drawn: Mutex<Drawn>,
}

struct Drawn {
    chance: ChaCha8Rng,
    chosen: u64,
}

impl Choice {
    pub(super) fn new(fault: Http, chance: ChaCha8Rng) -> Self {
        Self { fault, drawn: Mutex::new(Drawn { chance, chosen: 0 }) }
    }

    /// Whether this one is hurt. One of our own is by what it is alone: it costs nobody a turn.
    pub(super) fn falls_on(&self, asked: &Asked<'_>, own: bool) -> bool {
        if !self.fault.means(asked) {
            return false;
        }
        if own {
            return true;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.fault.first.is_some_and(|first| drawn.chosen >= first) {
            return false;
        }
        let share = self.fault.percent.share();
        let hit = share >= 1.0 || drawn.chance.random::<f64>() < share;
        drawn.chosen += u64::from(hit);
        hit
    }
}

impl Http {
    /// Whether it is one of those that are meant.
    fn means(&self, asked: &Asked<'_>) -> bool {
        let values = |name: &str| -> Vec<String> {
            let named = asked.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
            named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
        };
        self.path.as_ref().is_none_or(|path| path.fits(asked.path))
            && self.path_regex.as_ref().is_none_or(|pattern| pattern.0.is_match(asked.path))
            && self.method.as_ref().is_none_or(|methods| methods.0.iter().any(|one| one == asked.method))
            && (self.request_header.0)
                .iter()
                .all(|(name, pattern)| values(name).iter().any(|value| pattern.0.is_match(value)))
            && (self.grpc_status.is_none()
                || values("content-type").iter().any(|value| value.starts_with("application/grpc")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Dice;
    use crate::fault::http::tests::http;

    fn asked<'a>(method: &'a str, path: &'a str, fields: &'a [(&'a str, &'a [u8])]) -> Asked<'a> {
        Asked { method, path, fields: fields.to_vec() }
    }

    fn choice(toml: &str, seed: u64) -> Choice {
        Choice::new(http(toml), Dice::new(seed).stream("fault.x.http"))
    }

    #[test]
    fn a_request_is_meant_when_all_that_is_said_fits() {
        let fault = choice(
            "path = '/orders/*'\nmethod = ['POST', 'PUT']\nrequest_header = { x-tenant = '^acme$', host = 'shop' }\nstatus = 503",
            1,
        );
        let good: &[(&str, &[u8])] =
            &[("Host", b"shop.local"), ("X-Tenant", b"other"), ("x-tenant", b"acme")];
        assert!(fault.falls_on(&asked("POST", "/orders/7", good), false));
        assert!(!fault.falls_on(&asked("GET", "/orders/7", good), false));
        assert!(!fault.falls_on(&asked("POST", "/orders/7/items", good), false));
        assert!(!fault.falls_on(&asked("POST", "/orders/7", &good[..2]), false));
        let grpc = choice("grpc_status = 'UNAVAILABLE'", 1);
        assert!(
            grpc.falls_on(&asked("POST", "/a.B/C", &[("content-type", b"application/grpc+proto")]), false)
        );
        assert!(!grpc.falls_on(&asked("POST", "/a.B/C", &[]), false));
        assert!(
            choice("path_regex = '^/v[12]/'\nstatus = 503", 1).falls_on(&asked("GET", "/v2/x", &[]), false)
        );
    }

    #[test]
    fn the_first_few_are_chosen_and_no_more_and_ours_cost_none() {
        let fault = choice("first = 3\nstatus = 503", 1);
        let one = asked("GET", "/", &[]);
        assert!((0..5).all(|_| fault.falls_on(&one, true)));
        let fates: Vec<bool> = (0..5).map(|_| fault.falls_on(&one, false)).collect();
        assert_eq!(fates, [true, true, true, false, false]);
    }

    #[test]
    fn a_share_is_drawn_alike_under_one_seed_and_otherwise_under_another() {
        let fates = |seed| -> Vec<bool> {
            let fault = choice("percent = '30%'\nstatus = 503", seed);
            (0..1000).map(|_| fault.falls_on(&asked("GET", "/", &[]), false)).collect()
        };
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
        // Binomial: 300 plus and minus 3.3 standard deviations of 14.5.
        let hits = fates(1).iter().filter(|hit| **hit).count();
        assert!((252..=348).contains(&hits), "{hits}");
    }
}
