//! What must hold for any bytes whatever: driven by the fuzz targets of `fuzz/`, and by `tests/mutations.rs` on
//! every run.

use std::path::{Path, PathBuf};

use brownout::experiment::{Draft, Surroundings};
use brownout::fault::Entry;

/// The loader says yes or says why not; it never panics, and its mistakes can be shown.
#[allow(dead_code, reason = "each fuzz target drives one of the two")]
pub fn load(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut surroundings = Surroundings {
        env: Box::new(|name| name.starts_with(['A', 'R']).then(|| format!("{name}/s"))),
        port: Box::new(|_| 7000),
        services_dir: PathBuf::from("/srv"),
    };
    // No folder of that name: nothing is included.
    match Draft::from_text(Path::new("/nowhere/at/all/x.toml"), text).check(&mut surroundings) {
        Ok(checked) => {
            assert!(!checked.warnings.refuse());
            assert!(!checked.experiment.title.is_empty() || text.contains("title"));
            for fault in &checked.experiment.faults {
                assert!(fault.ttl() >= fault.hold.unwrap_or_default());
                assert_eq!(fault.hold.is_some(), fault.harm.lasting(), "{}", fault.name);
            }
            for slo in &checked.experiment.slos {
                assert!(slo.probe < checked.experiment.probes.len());
                assert!(slo.during.iter().all(|(fault, _)| *fault < checked.experiment.faults.len()));
            }
            let _ = checked.warnings.render(&checked.sources, false);
        }
        Err(refused) => {
            assert!(refused.mistakes.refuse(), "a refusal has its reason");
            assert_eq!(refused.mistakes.lines(&refused.sources).len(), refused.mistakes.sorted().len());
            // Showing thousands of mistakes takes long and proves no more than showing some.
            if refused.mistakes.sorted().len() < 100 {
                let _ = refused.mistakes.render(&refused.sources, false);
            }
        }
    }
}

/// The undo log reads as what it owes or says which line is wrong; what it owes has a way back.
#[allow(dead_code, reason = "each fuzz target drives one of the two")]
pub fn read_log(bytes: &[u8]) {
    use brownout::undo::Record;
    if let Ok((header, owed)) = brownout::undo::read_bytes::<Entry>(bytes) {
        assert!(header.is_some() || owed.is_empty(), "nothing is owed by nobody");
        assert!(owed.windows(2).all(|pair| pair[0].0 > pair[1].0), "newest first");
        for (_, entry) in owed {
            let _ = (entry.claims(), entry.by_hand(), entry.tier(), entry.deadline());
        }
    }
}
