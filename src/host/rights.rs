//! What we may do here: capabilities, and the kernel settings that stand in the way.
