// How long a process waits within the kernel for what is nobody's work: RCU's grace periods, the RTNL lock, and
// the disk.
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name

static void *(*const lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const forget)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static __u64 (*const pid_tgid)(void) = (void *)BPF_FUNC_get_current_pid_tgid;
static __u64 (*const now)(void) = (void *)BPF_FUNC_ktime_get_ns;

enum { RCU, RTNL, DISK, KINDS };

// The process that is watched.
const volatile __u32 PROCESS = 0;

struct wait {
	__u64 since;
	__u64 depth;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct wait);
	__uint(max_entries, 1024);
} under_way SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, KINDS);
} waited SEC(".maps");

static __attribute__((always_inline)) int begin(__u32 kind)
{
	__u64 id = pid_tgid(), key = id << 32 | kind;
	struct wait *outer, first = {.depth = 1};

	if (id >> 32 != PROCESS)
		return 0;
	outer = lookup(&under_way, &key);
	if (outer) {
		outer->depth++;
		return 0;
	}
	first.since = now();
	update(&under_way, &key, &first, BPF_ANY);
	return 0;
}

static __attribute__((always_inline)) int end(__u32 kind)
{
	__u64 id = pid_tgid(), key = id << 32 | kind, *sum;
	struct wait *wait;

	if (id >> 32 != PROCESS)
		return 0;
	wait = lookup(&under_way, &key);
	if (!wait || --wait->depth)
		return 0;
	sum = lookup(&waited, &kind);
	if (sum)
		__sync_fetch_and_add(sum, now() - wait->since);
	forget(&under_way, &key);
	return 0;
}

#define WATCH(function, kind) \
	SEC("fentry/" #function) int begin_##function(void *ctx) { return begin(kind); } \
	SEC("fexit/" #function) int end_##function(void *ctx) { return end(kind); }

WATCH(synchronize_rcu, RCU)
WATCH(synchronize_rcu_expedited, RCU)
WATCH(rtnl_lock, RTNL)
WATCH(vfs_fsync_range, DISK)

char _license[] SEC("license") = "GPL";
