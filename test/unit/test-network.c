// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * network: subnets and addresses are chosen well, and the rules say what they should; nothing here touches the host
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cidr.h"
#include "base/cleanup.h"
#include "daemon/network/plan.h"
#include "daemon/network/rules.h"
#include "daemon/network/subnet.h"
#include "schema/lodge-schema.h"

static struct cidr cidr(const char *text) {
        struct cidr c;

        assert_int_equal(cidr_parse(text, &c), 0);
        return c;
}

/* Everything else stands on this arithmetic. */
static void test_cidr(void **state) {
        static const char *const wrong[] = { "",           "10.0.0.0",    "10.0.0.0/",  "10.0.0.0/33",
                                             "10.0.0/8",   "10.0.0.0/-1", "fd00::/129", "fd00::/0x1000",
                                             "fd00:::/64", "/8",          "10.0.0.0/8 " };
        char text[CIDR_TEXT_MAX];
        struct cidr c = cidr("10.91.7.129/25"), d;

        for (size_t i = 0; i < ELEMENTSOF(wrong); i++)
                assert_int_equal(cidr_parse(wrong[i], &d), -EINVAL);
        d = cidr_network(&c);
        assert_string_equal(cidr_format(&d, text), "10.91.7.128/25");
        d = cidr_host(&d, 3);
        assert_string_equal(cidr_format(&d, text), "10.91.7.131/32");
        c = cidr("fd12:3456:789a::/64");
        d = cidr_host(&c, 0x1fe);
        assert_string_equal(cidr_format_address(&d, text), "fd12:3456:789a::1fe");
        assert_true(cidr_contains(&c, &d));
        assert_false(cidr_contains(&d, &c));
        assert_true(cidr_overlaps(&d, &c));
        c = cidr("10.0.0.0/8");
        assert_false(cidr_overlaps(&c, &d));
        d = cidr("10.255.255.255/32");
        assert_true(cidr_overlaps(&c, &d));
        d = cidr("0.0.0.0/0");
        assert_true(cidr_contains(&d, &c));
        assert_false(cidr_contains(&c, &d));
}

static bool free_of(const struct cidr *c, const struct cidr *used, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (used[i].bits > 0 && cidr_overlaps(c, &used[i]))
                        return false;
        return true;
}

/* A subnet that collides takes the host's own network away; one that is not the same again breaks what people wrote down. */
static void test_subnet_is_free_and_the_same_again(void **state) {
        const struct cidr used[] = { cidr("0.0.0.0/0"), cidr("10.0.0.0/9"), cidr("10.128.0.0/10"), cidr("fd00::/8"),
                                     cidr("127.0.0.0/8") };
        struct cidr first, again;

        for (uint64_t seed = 0; seed < 1000; seed++) {
                assert_int_equal(subnet_choose(used, ELEMENTSOF(used), seed * 7919, &first), 0);
                assert_int_equal(subnet_choose(used, ELEMENTSOF(used), seed * 7919, &again), 0);
                assert_memory_equal(&first, &again, sizeof(first));
                assert_true(free_of(&first, used, ELEMENTSOF(used)));
                assert_int_equal(first.bits, 24);
        }
}

/* Two hosts, or two networks, that get the same subnet can't be joined later. */
static void test_subnets_are_spread(void **state) {
        struct cidr seen[64];

        for (size_t i = 0; i < ELEMENTSOF(seen); i++) {
                char name[16];

                snprintf(name, sizeof(name), "net%zu", i);
                assert_int_equal(subnet_choose(NULL, 0, hash_text(name, 1), &seen[i]), 0);
                assert_true(i == 0 || memcmp(&seen[i], &seen[i - 1], sizeof(seen[i])) != 0);
                assert_int_equal(seen[i].address[0], 10);
        }
}

/* With each choice taken in turn, every subnet of every range comes up exactly once, and then the answer is no. */
static void test_last_subnet_is_found(void **state) {
        struct cidr used[3] = { cidr("10.0.0.0/8"), cidr("172.16.0.0/12"), cidr("192.168.0.0/17") };
        struct cidr rest[128 + 3], c;
        size_t n = 3;

        memcpy(rest, used, sizeof(used));
        for (int i = 0; i < 128; i++) {
                assert_int_equal(subnet_choose(rest, n, 12345, &c), 0);
                assert_true(free_of(&c, rest, n));
                rest[n++] = c;
        }
        assert_int_equal(subnet_choose(rest, n, 12345, &c), -EADDRNOTAVAIL);
}

/* A subnet of fd00::/8 that is not random is the next one's too, and a VPN between them breaks. */
static void test_subnet6_is_random(void **state) {
        struct cidr a, b;

        assert_int_equal(subnet_random6(&a), 0);
        assert_int_equal(subnet_random6(&b), 0);
        assert_int_equal(a.address[0], 0xfd);
        assert_int_equal(a.bits, 64);
        assert_memory_not_equal(&a, &b, sizeof(a));
}

/* Two machines with one address: neither works. The gateway's and the broadcast address are nobody's. */
static void test_places_are_unique(void **state) {
        const struct cidr subnet = cidr("192.168.7.0/28");
        uint32_t taken[13], number, first;
        char name[16];

        assert_int_equal(subnet_place(&subnet, "web", NULL, 0, &first), 0);
        for (size_t i = 0; i < ELEMENTSOF(taken); i++) {
                snprintf(name, sizeof(name), "m%zu", i);
                assert_int_equal(subnet_place(&subnet, name, taken, i, &number), 0);
                assert_in_range(number, 2, 14);
                for (size_t k = 0; k < i; k++)
                        assert_int_not_equal(number, taken[k]);
                taken[i] = number;
        }
        assert_int_equal(subnet_place(&subnet, "web", taken, ELEMENTSOF(taken), &number), -ENOSPC);
        assert_int_equal(subnet_place(&subnet, "web", NULL, 0, &number), 0);
        assert_int_equal(number, first);
}

/* The kernel takes 15 bytes. Names that differ at their end only must not become one. */
static void test_interface_names(void **state) {
        char a[LINK_NAME_MAX], b[LINK_NAME_MAX];

        plan_bridge_name("default", a);
        assert_string_equal(a, "lodge-default");
        plan_bridge_name("a-network-of-a-long-name-1", a);
        plan_bridge_name("a-network-of-a-long-name-2", b);
        assert_true(strlen(a) <= 15);
        assert_string_not_equal(a, b);
        plan_tap_name("default", "a-machine-of-a-long-name-1", 0, a);
        plan_tap_name("default", "a-machine-of-a-long-name-2", 0, b);
        assert_int_equal(strlen(a), 15);
        assert_string_not_equal(a, b);
        plan_tap_name("other", "a-machine-of-a-long-name-1", 0, b);
        assert_string_not_equal(a, b);
        plan_tap_name("default", "a-machine-of-a-long-name-1", 1, b);
        assert_string_not_equal(a, b);
}

static char *render(const char *config, const struct network_ports *ports) {
        _cleanup_(network_config_freep) struct network_config *c = NULL;
        struct network_plan p;
        char *text;

        assert_int_equal(network_config_parse(config, strlen(config), &c, NULL), 0);
        assert_int_equal(plan_make(c, &p, NULL), 0);
        text = rules_render(c, &p, ports);
        assert_non_null(text);
        return text;
}

static void has(const char *text, const char *line) {
        if (!strstr(text, line))
                fail_msg("\"%s\" is not in:\n%s", line, text);
}

static void has_not(const char *text, const char *line) {
        if (strstr(text, line))
                fail_msg("\"%s\" is in:\n%s", line, text);
}

#define CONFIG                                                                                                         \
        "\"name\":\"n\",\"bridge\":\"br\",\"subnet\":\"10.1.2.0/24\",\"domain\":\"d\",\"forwards\":["                  \
        "{\"host_port\":80,\"machine\":\"web\",\"machine_port\":8080},"                                                \
        "{\"protocol\":\"udp\",\"host_address\":\"192.0.2.7\",\"host_port\":53,\"machine\":\"db\",\"machine_port\":"   \
        "54},"                                                                                                         \
        "{\"host_address\":\"192.0.2.8\",\"host_port\":81,\"machine\":\"none\",\"machine_port\":82}"

/* A forward to the wrong machine, or a port that may send as another, would be found by nobody else before an attacker. */
static void test_rules(void **state) {
        struct network_port web = { .machine = (char *)"web",
                                    .mac = (char *)"52:54:00:00:00:01",
                                    .tap = (char *)"ltw",
                                    .address4 = (char *)"10.1.2.9",
                                    .address6 = (char *)"fd00::9",
                                    .attached = true };
        struct network_port db = { .machine = (char *)"db",
                                   .mac = (char *)"52:54:00:00:00:02",
                                   .tap = (char *)"ltd",
                                   .address4 = (char *)"10.1.2.8",
                                   .attached = false };
        struct network_port *items[] = { &db, &web };
        const struct network_ports ports = { items, 2 };
        _cleanup_free_ char *both = render(
                "{" CONFIG ",{\"host_address\":\"::\",\"host_port\":80,\"machine\":\"web\",\"machine_port\":8080}],"
                "\"subnet6\":\"fd00::/64\"}",
                &ports);
        _cleanup_free_ char *v4 = render("{" CONFIG "],\"ipv6\":false}", &ports);

        has(both, "add table inet lodge-n\ndelete table inet lodge-n\ntable inet lodge-n {");
        has(both, "meta nfproto ipv4 tcp dport 80 dnat ip to 10.1.2.9:8080\n");
        has(both, "meta nfproto ipv6 tcp dport 80 dnat ip6 to [fd00::9]:8080\n");
        has(both, "ip daddr 192.0.2.7 udp dport 53 dnat ip to 10.1.2.8:54\n");
        has_not(both, "dport 81"); /* it waits for its machine */
        has(both, "iifname vmap { \"ltw\" : jump port-ltw }");
        has(both, "ether saddr != 52:54:00:00:00:01 drop");
        has(both, "ether type ip ip saddr != 10.1.2.9 drop");
        has_not(both, "ltd"); /* not attached: no tap of its own */
        has(both, "ip6 saddr fd00::/64 oifname != \"br\" ip6 daddr != fd00::/64 masquerade");
        has(v4, "iifname \"br\" meta nfproto ipv6 drop");
        has_not(v4, "ip6 saddr");
        has(v4, "ether type != { ip, arp } drop");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cidr),
                cmocka_unit_test(test_subnet_is_free_and_the_same_again),
                cmocka_unit_test(test_subnets_are_spread),
                cmocka_unit_test(test_last_subnet_is_found),
                cmocka_unit_test(test_subnet6_is_random),
                cmocka_unit_test(test_places_are_unique),
                cmocka_unit_test(test_interface_names),
                cmocka_unit_test(test_rules),
        };

        return cmocka_run_group_tests_name("network", tests, NULL, NULL);
}
