//! What a process waits for within the kernel, apart from its own work: its threads' kernel stacks, looked at
//! again and again. It needs no tracer, which not all kernels have.
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(1);

/// What is waited for, and the kernel's functions that do it: the first that is in a stack tells.
const FUNCTIONS: [(&str, &[&str]); 3] = [
    ("RCU", &["synchronize_rcu", "synchronize_net", "rcu_barrier", "__wait_rcu_gp"]),
    ("RTNL", &["rtnl_lock", "rtnl_net_lock"]),
    ("disk", &["fsync"]),
];

/// How many kinds of waits there are.
pub const KINDS: usize = FUNCTIONS.len();

/// Their names.
pub fn names() -> [&'static str; KINDS] {
    FUNCTIONS.map(|(name, _)| name)
}

/// Does `work`, and tells how long threads of the process waited meanwhile, by kind. Threads that wait at the
/// same time count each.
pub fn during(process: u32, work: impl FnOnce() -> Result<()>) -> Result<[Duration; KINDS]> {
    let waited = [const { AtomicU64::new(0) }; KINDS];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut last = Instant::now();
            while !done.load(Ordering::Relaxed) {
                thread::sleep(PERIOD);
                let now = Instant::now();
                let nanoseconds = u64::try_from((now - last).as_nanos()).unwrap_or(0);
                for kind in waiting(process) {
                    waited[kind].fetch_add(nanoseconds, Ordering::Relaxed);
                }
                last = now;
            }
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        looker.join().map_err(|_| anyhow!("the thread that looks at stacks panicked"))?;
        outcome
    })?;
    Ok(waited.map(|waited| Duration::from_nanos(waited.into_inner())))
}

/// What each thread that waits waits for.
fn waiting(process: u32) -> Vec<usize> {
    let tasks = fs::read_dir(Path::new("/proc").join(process.to_string()).join("task"));
    // A thread may end at any moment.
    let stacks =
        tasks.into_iter().flatten().flatten().filter_map(|task| fs::read(task.path().join("stack")).ok());
    stacks.filter_map(|stack| kind(&String::from_utf8_lossy(&stack))).collect()
}

fn kind(stack: &str) -> Option<usize> {
    stack.lines().find_map(|line| {
        FUNCTIONS.iter().position(|(_, functions)| functions.iter().any(|function| line.contains(function)))
    })
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn the_innermost_function_tells() {
        let stack = "[<0>] wait_for_completion+0x1/0x2\n[<0>] synchronize_rcu_normal+0x1/0x2\n\
            [<0>] tcx_link_detach+0x1/0x2\n[<0>] rtnl_lock+0x1/0x2\n";
        assert_eq!(kind(stack), Some(0));
        assert_eq!(kind("[<0>] __mutex_lock+0x1/0x2\n[<0>] rtnl_lock+0x1/0x2\n"), Some(1));
        assert_eq!(kind("[<0>] ep_poll+0x1/0x2\n"), None);
    }
}
