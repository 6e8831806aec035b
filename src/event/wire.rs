//! How figures are written that JSON has no form for.

/// A number that may be infinite, written as null then.
pub(super) mod endless {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub(in crate::event) fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        number.is_finite().then_some(*number).serialize(to)
    }

    pub(in crate::event) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
    }
}

/// The parts of a look in milliseconds.
pub(super) mod phases {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::probe::Phases;

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    #[expect(clippy::struct_field_names, reason = "the names are written, and say their unit")]
    struct Parts {
        #[serde(skip_serializing_if = "Option::is_none")]
        lookup_ms: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        connect_ms: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        greeting_ms: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tls_ms: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        login_ms: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        first_byte_ms: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        transfer_ms: Option<f64>,
    }

    pub(in crate::event) fn none(phases: &Phases) -> bool {
        *phases == Phases::default()
    }

    pub(in crate::event) fn serialize<S: Serializer>(phases: &Phases, to: S) -> Result<S::Ok, S::Error> {
        let ms = |part: Option<Duration>| part.map(|part| part.as_secs_f64() * 1e3);
        Parts {
            lookup_ms: ms(phases.lookup),
            connect_ms: ms(phases.connect),
            greeting_ms: ms(phases.greeting),
            tls_ms: ms(phases.tls),
            login_ms: ms(phases.login),
            first_byte_ms: ms(phases.first_byte),
            transfer_ms: ms(phases.transfer),
        }
        .serialize(to)
    }

    pub(in crate::event) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Phases, D::Error> {
        let part = |ms: Option<f64>| ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
        let parts = Parts::deserialize(from)?;
        Ok(Phases {
            lookup: part(parts.lookup_ms),
            connect: part(parts.connect_ms),
            greeting: part(parts.greeting_ms),
            tls: part(parts.tls_ms),
            login: part(parts.login_ms),
            first_byte: part(parts.first_byte_ms),
            transfer: part(parts.transfer_ms),
        })
    }
}
