//! `metric`: is a figure that a program tells of itself as it should be?

use std::collections::BTreeMap;

use super::figure::{Expect, Several};
use super::http::{Access, Page, Url};
use super::{Miss, Probe, Prober, Setting, Trace, beginning};

crate::kind! {
    /// Reads one figure of a page in Prometheus's text format: the depth of a queue, connections in use, a replica's lag.
    ///
    /// The page may hold 16 MiB.
    pub struct Metric("metric") {
        /// The page: `http://host:port/metrics` or `https://...`.
        url: Url = required,
        /// The name of the figure, as it stands on the page: `jobs_waiting`, `request_seconds_bucket`.
        name: String = required,
        /// The labels it has, and the value of each. It may have others.
        labels: BTreeMap<String, String> = "{}",
        /// What is made of several that have these: their `sum`, the `least`, the `greatest`, or `none`, and the look is bad.
        several: Several = "none",
        /// What the figure must be: `above` and `below`, and that it is there.
        expect: Expect = "{}",
        /// How the page is reached: `headers`, `bearer`, `bearer_file`, `basic`, `ca_file`, `insecure`, `name`, `min_version`,
        /// `cert_file` and `key_file`, as for the kind `http`.
        access: Access = "{}",
    }
}

/// Reads the page, again and again.
pub struct MetricProber {
    metric: Metric,
    page: Page,
}

impl Probe for Metric {
    type Prober = MetricProber;
    const EXAMPLE: &'static str = r#"[probe.queue.metric]
url    = "http://127.0.0.1:9100/metrics"
name   = "jobs_waiting"
labels = { queue = "mail" }
expect = { below = 1000 }
every  = "1s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        self.access.check(&self.url)
    }

    fn prober(&self, setting: &Setting) -> Result<MetricProber, String> {
        // Otherwise a program may answer in a format of bytes.
        let page = self.access.page(self.url.clone(), &["2xx"], "text/plain;version=0.0.4", setting)?;
        Ok(MetricProber { metric: self.clone(), page })
    }

    fn looks_at(&self) -> String {
        format!("{} of {}", self.name, self.url.said)
    }
}

impl Prober for MetricProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let Metric { name, labels, several, expect, .. } = &self.metric;
        let body = self.page.body(trace).await?;
        let page = String::from_utf8_lossy(&body);
        let mut found = Vec::new();
        for line in page.lines().map(str::trim_start).filter(|line| named(line, name)) {
            let told = series(line).ok_or_else(|| {
                Miss::new(format!("the page is not Prometheus's text: `{}`", beginning(line.as_bytes())))
            })?;
            let fits =
                |(label, value): (&String, &String)| told.0.iter().any(|(a, b)| a == label && b == value);
            if labels.iter().all(fits) {
                found.push(told.1);
            }
        }
        let figure = several.one(&format!("{name} with these labels"), &found).map_err(Miss::new)?;
        expect.judge(name, figure, trace)
    }
}

/// Whether a line tells a figure of this name.
fn named(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ', '\t']))
}

/// The labels of a line, and its figure, which a time and an example may follow ("Text-based format" of Prometheus's
/// documentation).
fn series(line: &str) -> Option<(Vec<(String, String)>, f64)> {
    let (mut labels, mut rest) = (Vec::new(), &line[line.find(['{', ' ', '\t'])?..]);
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once('=')?;
            let (value, after) = quoted(after.trim_start())?;
            labels.push((label.trim().to_owned(), value));
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        rest = &rest[1..];
    }
    Some((labels, rest.split_whitespace().next()?.parse().ok()?))
}

/// A text in quotation marks, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, inside) = (String::new(), text.strip_prefix('"')?);
    let mut each = inside.char_indices();
    loop {
        match each.next()? {
            (at, '"') => return Some((value, &inside[at + 1..])),
            (_, '\\') => value.push(match each.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_labels_and_a_figure_or_nothing() {
        let told = |line: &str| {
            let (labels, figure) = series(line)?;
            let labels: Vec<String> =
                labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            Some((labels.join("|"), figure.to_string()))
        };
        for (line, labels, figure) in [
            ("up 1", "", "1"),
            ("up\t-0.5e1 1700000000000", "", "-5"),
            ("up{} +Inf", "", "inf"),
            ("up{a=\"b\"} NaN", "a=b", "NaN"),
            ("up{ a = \"b\" , c=\"d,}\\\"\\\\\\n\", } 2 # {t=\"1\"} 3", "a=b|c=d,}\"\\\n", "2"),
        ] {
            assert_eq!(told(line), Some((labels.to_owned(), figure.to_owned())), "{line}");
        }
        for line in
            ["up", "up ", "up x", "up{ 1", "up{a} 1", "up{a=b} 1", "up{a=\"b} 1", "up{a=\"b\"", "up{a=\"\\"]
        {
            assert_eq!(told(line), None, "{line}");
        }
    }
}
