//! A thread of its own for what belongs to a thread in the kernel: its namespaces, its real user.

use std::io;

/// Does something on a thread that first becomes what it must be, and ends with it: nobody else of us is changed. `become_it`
/// must not change anything that threads share.
///
/// # Errors
/// When the thread cannot be had, or does not become that; `work` is not done then. When `work` panics.
pub fn apart<H, T: Send>(
    name: &str,
    become_it: impl FnOnce() -> io::Result<H> + Send,
    work: impl FnOnce(H) -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, || Ok(work(become_it()?)))?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("what was done there failed")))
    })
}
