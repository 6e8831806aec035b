//! Floor 1: pure judgement over samples: objectives, guard, verdict. No clock, no I/O.
