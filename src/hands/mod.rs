//! Floor 2: what holds harm: the packet queue, rule tables, the proxy, the tracer, fills, services.
