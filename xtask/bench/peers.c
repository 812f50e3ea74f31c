// What our programs are measured against: C that counts in the usual ways, built by clang. The detailed ones do
// the same work as ours; the spoof check as well.
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
// A call of a function costs more than what is measured.
#define INLINE inline __attribute__((always_inline))
#define NEXT (-1)
#define SHOT 2

static void *(*const lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static __u64 (*const buff_len)(struct xdp_md *ctx) = (void *)BPF_FUNC_xdp_get_buff_len;

struct counters {
	__u64 packets;
	__u64 bytes;
	__u64 spoofed;
};

struct detailed {
	struct counters all;
	__u64 cast[3];
	__u64 ethertype[4];
	__u64 protocol[3];
	__u64 tagged;
	__u64 size[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(max_entries, 1);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(max_entries, 1024);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct detailed);
	__uint(max_entries, 1);
} classes SEC(".maps");

// The endpoint's MAC, 02:00:00:00:00:01.
const volatile __u32 mac_head = 2;
const volatile __u16 mac_tail = 0x0100;

static INLINE struct counters *by_array(void)
{
	__u32 key = 0;

	return lookup(&array, &key);
}

static INLINE struct counters *by_ifindex(__u32 ifindex)
{
	struct counters *found = lookup(&hash, &ifindex);

	if (!found) {
		struct counters none = {};

		update(&hash, &ifindex, &none, BPF_NOEXIST);
		found = lookup(&hash, &ifindex);
	}
	return found;
}

static INLINE void count(struct counters *in, __u64 packets, __u64 bytes)
{
	in->packets += packets;
	in->bytes += bytes;
}

static INLINE void count_skb(struct counters *in, struct __sk_buff *skb, __u32 length)
{
	__u64 packets = skb->gso_segs ?: 1;

	count(in, packets, length + (skb->vlan_present ? packets * 4 : 0));
}

static INLINE int is_foreign(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + 12 > end)
		return 1;
	return *(__u32 *)(data + 6) != mac_head || *(__u16 *)(data + 10) != mac_tail;
}

static INLINE void count_size(struct detailed *in, __u64 bytes, __u64 packets)
{
	int class = 6;

	if (bytes <= 60)
		class = 0;
	else if (bytes <= 123)
		class = 1;
	else if (bytes <= 251)
		class = 2;
	else if (bytes <= 507)
		class = 3;
	else if (bytes <= 1019)
		class = 4;
	else if (bytes <= 1514)
		class = 5;
	in->size[class] += packets;
}

// For frames whose headers are in the first 34 bytes.
static INLINE void count_headers(struct detailed *in, void *data, void *end, __u64 packets)
{
	__u16 ethertype;
	__u8 protocol = 255;

	if (data + 34 > end)
		return;
	if (!(*(__u8 *)data & 1))
		in->cast[0] += packets;
	else if (*(__u16 *)data == 0xffff && *(__u32 *)(data + 2) == 0xffffffff)
		in->cast[2] += packets;
	else
		in->cast[1] += packets;
	ethertype = __builtin_bswap16(*(__u16 *)(data + 12));
	if (ethertype == 0x0800) {
		in->ethertype[0] += packets;
		protocol = *(__u8 *)(data + 23);
	} else if (ethertype == 0x86dd) {
		in->ethertype[1] += packets;
		protocol = *(__u8 *)(data + 20);
	} else if (ethertype == 0x0806) {
		in->ethertype[2] += packets;
	} else {
		in->ethertype[3] += packets;
	}
	if (protocol == 6)
		in->protocol[0] += packets;
	else if (protocol == 17)
		in->protocol[1] += packets;
	else if (protocol == 1 || protocol == 58)
		in->protocol[2] += packets;
}

static INLINE void count_classes(struct detailed *in, struct __sk_buff *skb, __u32 length)
{
	__u64 packets = skb->gso_segs ?: 1;

	count_skb(&in->all, skb, length);
	if (skb->vlan_present)
		in->tagged += packets;
	count_headers(in, (void *)(long)skb->data, (void *)(long)skb->data_end, packets);
	if (packets == 1) {
		count_size(in, length, 1);
	} else {
		__u64 each = (length - skb->len) / (packets - 1) + skb->gso_size;

		count_size(in, each, packets - 1);
		count_size(in, length - (packets - 1) * each, 1);
	}
}

SEC("xdp") int xdp_empty(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp") int xdp_array(struct xdp_md *ctx)
{
	struct counters *in = by_array();

	if (in)
		count(in, 1, ctx->data_end - ctx->data);
	return XDP_PASS;
}

SEC("xdp.frags") int xdp_array_frags(struct xdp_md *ctx)
{
	struct counters *in = by_array();

	if (in)
		count(in, 1, buff_len(ctx));
	return XDP_PASS;
}

SEC("xdp") int xdp_hash(struct xdp_md *ctx)
{
	struct counters *in = by_ifindex(ctx->ingress_ifindex);

	if (in)
		count(in, 1, ctx->data_end - ctx->data);
	return XDP_PASS;
}

SEC("xdp") int xdp_detailed(struct xdp_md *ctx)
{
	__u32 key = 0;
	struct detailed *in = lookup(&classes, &key);
	__u64 bytes = ctx->data_end - ctx->data;

	if (in) {
		count(&in->all, 1, bytes);
		count_headers(in, (void *)(long)ctx->data, (void *)(long)ctx->data_end, 1);
		count_size(in, bytes, 1);
	}
	return XDP_PASS;
}

SEC("classifier") int tc_empty(struct __sk_buff *skb)
{
	return NEXT;
}

SEC("classifier") int rx_array(struct __sk_buff *skb)
{
	struct counters *in = by_array();

	if (in)
		count_skb(in, skb, skb->len);
	return NEXT;
}

SEC("classifier") int rx_hash(struct __sk_buff *skb)
{
	struct counters *in = by_ifindex(skb->ifindex);

	if (in)
		count_skb(in, skb, skb->len);
	return NEXT;
}

SEC("classifier") int rx_detailed(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct detailed *in = lookup(&classes, &key);

	if (in)
		count_classes(in, skb, skb->len);
	return NEXT;
}

SEC("classifier") int tx_array(struct __sk_buff *skb)
{
	struct counters *in = by_array();

	if (in)
		count_skb(in, skb, skb->wire_len);
	return NEXT;
}

SEC("classifier") int tx_hash(struct __sk_buff *skb)
{
	struct counters *in = by_ifindex(skb->ifindex);

	if (in)
		count_skb(in, skb, skb->wire_len);
	return NEXT;
}

SEC("classifier") int tx_array_spoof(struct __sk_buff *skb)
{
	struct counters *in = by_array();

	if (!in)
		return NEXT;
	if (is_foreign(skb)) {
		in->spoofed += skb->gso_segs ?: 1;
		return SHOT;
	}
	count_skb(in, skb, skb->wire_len);
	return NEXT;
}

SEC("classifier") int tx_detailed_spoof(struct __sk_buff *skb)
{
	__u32 key = 0;
	struct detailed *in = lookup(&classes, &key);

	if (!in)
		return NEXT;
	if (is_foreign(skb)) {
		in->all.spoofed += skb->gso_segs ?: 1;
		return SHOT;
	}
	count_classes(in, skb, skb->wire_len);
	return NEXT;
}

char _license[] SEC("license") = "GPL";
