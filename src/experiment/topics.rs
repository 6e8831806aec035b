//! What can be said about each part of a file: `brownout explain` and the pages in `docs/` are made of it.

use super::tables::{
    BlastRadius, During, Expect, File, Guard, Host, Latency, Looking, Ready, Recovery, Service, Slo,
    SteadyState, Target, Timing, Verdict, looking_fields, timing_fields,
};
use crate::fault::AnyFault;
use crate::file::FieldDoc;
use crate::probe::AnyProbe;
use crate::undo::Tier;

/// To which list of words a topic belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// A kind of fault.
    Fault,
    /// A kind of probe.
    Probe,
    /// A table of the file.
    Table,
}

/// One part of a file.
#[derive(Debug, Clone)]
pub struct Topic {
    /// The word that names it.
    pub word: &'static str,
    /// Where it belongs.
    pub section: Section,
    /// How its table begins: `[fault.NAME.latency]`.
    pub head: String,
    /// What it is, as a doc comment.
    pub about: &'static str,
    /// Its fields, those of one kind together, each group under its title.
    pub fields: Vec<(String, Vec<FieldDoc>)>,
    /// A good one, as it stands in a file.
    pub example: &'static str,
    /// Who undoes it if we are killed, as far as the kind alone tells; `None` for what is no fault.
    pub tier: Option<Tier>,
}

impl Topic {
    /// What it is, in one sentence.
    #[must_use]
    pub fn gist(&self) -> String {
        let first = crate::file::paragraphs(self.about).into_iter().next().unwrap_or_default();
        match first.split_once(". ") {
            Some((sentence, _)) => format!("{sentence}."),
            None => first,
        }
    }
}

/// All topics: the tables of the file in the order in which one meets them, the faults, the probes.
#[must_use]
pub fn topics() -> Vec<Topic> {
    tables().into_iter().chain(faults()).chain(probes()).collect()
}

fn faults() -> impl Iterator<Item = Topic> {
    AnyFault::KINDS.iter().filter_map(|kind| {
        let (about, own) = AnyFault::explain(kind)?;
        Some(Topic {
            word: kind,
            section: Section::Fault,
            head: format!("[fault.NAME.{kind}]"),
            about,
            fields: vec![
                ("its own fields".to_owned(), own),
                ("when, and to whom".to_owned(), timing_fields(kind)),
            ],
            example: AnyFault::example(kind)?,
            tier: AnyFault::undone_by(kind),
        })
    })
}

fn probes() -> impl Iterator<Item = Topic> {
    AnyProbe::KINDS.iter().filter_map(|kind| {
        let (about, own) = AnyProbe::explain(kind)?;
        Some(Topic {
            word: kind,
            section: Section::Probe,
            head: format!("[probe.NAME.{kind}]"),
            about,
            fields: vec![
                ("its own fields".to_owned(), own),
                ("when and how it looks, as every probe".to_owned(), looking_fields(kind)),
            ],
            example: AnyProbe::example(kind)?,
            tier: None,
        })
    })
}

fn tables() -> Vec<Topic> {
    let topic = |word, head: &str, about, fields, example| Topic {
        word,
        section: Section::Table,
        head: head.to_owned(),
        about,
        fields,
        example,
        tier: None,
    };
    let plain = |fields| vec![("fields".to_owned(), fields)];
    let slo = vec![
        ("fields".to_owned(), Slo::fields()),
        ("each entry of `latency`".to_owned(), Latency::fields()),
        ("[slo.NAME.during.FAULT]".to_owned(), During::fields()),
    ];
    let service = vec![
        ("fields".to_owned(), Service::fields()),
        ("`ready`: one of `tcp`, `http` and `exec`".to_owned(), Ready::fields()),
    ];
    vec![
        topic("file", "the file itself", File::ABOUT, plain(File::fields()), FILE),
        topic("service", "[service.NAME]", Service::ABOUT, service, SERVICE),
        topic("target", "[target.NAME]", Target::ABOUT, plain(Target::fields()), TARGET),
        topic("host", "[host.NAME]", HOSTS, plain(Host::fields()), ""),
        topic("probe", "[probe.NAME.KIND]", Looking::ABOUT, plain(Looking::fields()), PROBE),
        topic("slo", "[slo.NAME]", Slo::ABOUT, slo, SLO),
        topic("steady_state", "[steady_state]", SteadyState::ABOUT, plain(SteadyState::fields()), STEADY),
        topic("fault", "[fault.NAME.KIND]", Timing::ABOUT, plain(Timing::fields()), FAULT),
        topic("expect", "[expect.NAME]", Expect::ABOUT, plain(Expect::fields()), EXPECT),
        topic("guard", "[guard]", Guard::ABOUT, plain(Guard::fields()), GUARD),
        topic("recovery", "[recovery]", Recovery::ABOUT, plain(Recovery::fields()), RECOVERY),
        topic("verdict", "[verdict]", Verdict::ABOUT, plain(Verdict::fields()), VERDICT),
        topic("blast_radius", "[blast_radius]", BlastRadius::ABOUT, plain(BlastRadius::fields()), RADIUS),
    ]
}

const HOSTS: &str = " Another machine. Not in this version: a file that names one is refused.\n";

const FILE: &str = r#"title      = "Orders survive a slow Redis"
hypothesis = "at most 1 in 100 orders fails"
owner      = "orders"
seed       = 42
"#;

const SERVICE: &str = r#"[service.web]
run   = ["my-server", "--port", "${self.port}"]
ready = { http = "http://127.0.0.1:${self.port}/healthz", within = "10s" }
"#;

const TARGET: &str = r#"[target.workers]
cmdline = "my-server --worker"
pick    = { percent = "30%" }
"#;

const PROBE: &str = r#"[probe.home.http]
url     = "http://127.0.0.1:8080/"
rate    = "20/s"
timeout = "2s"
"#;

const SLO: &str = r#"[slo.order]
probe        = "order"           # a [probe.order.KIND]
availability = "99%"
latency      = [{ percentile = "p95", below = "300ms" }]

[slo.order.during.slow-redis]    # while that fault is live
latency      = [{ percentile = "p95", below = "500ms" }]
"#;

const STEADY: &str = r#"[steady_state]
for = "10s"
"#;

const FAULT: &str = r#"[fault.lose-one.kill]
target = { exe = "my-server" }
at     = "slow-redis.end + 5s"   # after [fault.slow-redis.KIND]
every  = "10s"
times  = 3
"#;

const EXPECT: &str = r#"[expect.it-comes-back]
fault  = "lose-one"              # a [fault.lose-one.kill]
is     = "back"
within = "10s"
"#;

const GUARD: &str = r#"[guard]
budget      = "20s"
kill_switch = "/run/brownout.stop"
"#;

const RECOVERY: &str = r#"[recovery]
within = "1m"
"#;

const VERDICT: &str = r#"[verdict]
proof = "likely"
"#;

const RADIUS: &str = r#"[blast_radius]
only        = ["exe my-server"]
never       = ["listen 5432"]
max_targets = 1
window      = "Mon-Thu 10:00-16:00 Europe/Berlin"
"#;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::experiment::{Draft, Refused, Surroundings};

    /// What the examples refer to, where they do not define it themselves.
    const AROUND: [(&str, &str); 4] = [
        ("title ", "title = \"an example\"\n"),
        ("[probe.order.", "[probe.order.http]\nurl = \"http://localhost:1/\"\nrate = \"20/s\"\n"),
        (
            "[fault.slow-redis.",
            "[fault.slow-redis.latency]\nto = { port = 6379 }\ndelay = \"100ms\"\nfor = \"30s\"\n",
        ),
        ("[fault.lose-one.", "[fault.lose-one.kill]\ntarget = { exe = \"my-server\" }\n"),
    ];

    #[test]
    fn every_example_is_a_good_file() {
        for topic in topics().iter().filter(|topic| topic.word != "host") {
            let defines = |begins: &str| topic.example.lines().any(|line| line.starts_with(begins));
            let missing = AROUND.iter().filter(|(begins, _)| !defines(begins));
            let (mut top, mut tables) = (String::new(), topic.example.to_owned());
            for (begins, text) in missing {
                if *begins == "title " { top.push_str(text) } else { tables.push_str(text) }
            }
            // Only one probe is judged, so that there is something to judge.
            if !tables.contains("[slo.") {
                tables.push_str("[slo.order]\nprobe = \"order\"\navailability = \"99%\"\n");
            }
            let text = top + &tables;
            let draft = Draft::from_text("example.toml".as_ref(), &text);
            if let Err(Refused { mistakes, sources }) = draft.check(&mut Surroundings::pretended()) {
                panic!("{}: {}\n{text}", topic.word, mistakes.render(&sources, false));
            }
        }
    }

    #[test]
    fn every_kind_and_every_table_is_explained() {
        let all = topics();
        let words = |section| -> BTreeSet<&str> {
            all.iter().filter(|topic| topic.section == section).map(|topic| topic.word).collect()
        };
        assert_eq!(words(Section::Fault), AnyFault::KINDS.iter().copied().collect());
        assert_eq!(words(Section::Probe), AnyProbe::KINDS.iter().copied().collect());
        for field in File::fields() {
            let table = field.type_name.starts_with("table") && field.name != "defaults";
            assert!(!table || words(Section::Table).contains(field.name), "{}", field.name);
        }
        for topic in &all {
            assert!(!topic.gist().is_empty() && topic.gist().len() < 120, "{}: {}", topic.word, topic.gist());
            let wide = topic.example.lines().find(|line| line.chars().count() > 78);
            assert_eq!(wide, None, "{}", topic.word);
            assert!(topic.fields.iter().flat_map(|(_, fields)| fields).all(|f| !f.meaning().is_empty()));
        }
    }
}
