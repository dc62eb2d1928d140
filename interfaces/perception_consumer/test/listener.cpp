// A planner's end of the real graph: takes serialized messages by rcl, the C library of ROS, and
// prints what the consumer says of each, and every 10 ms of none.
//
// Arguments: the topic to subscribe to, its name where it is sent, its content. A line:
// CLOCK_MONOTONIC in ns, state, mode, silent_ms, lost, size (-1: not usable), reason, by tabs.
#include <perception_interfaces/msg/protected.h>

#include <perception_interfaces/msg/protected.hpp>
#include <rcl/error_handling.h>
#include <rcl/rcl.h>

#include <cstdlib>
#include <iostream>

#include "../example/planner.hpp"

namespace {

constexpr std::int64_t WAIT_NS = 10'000'000;

struct Nobody {
    void take(const std::uint8_t*, std::size_t) {}
    void be_in(Mode) {}
};

void must(rcl_ret_t result, const char* what) {
    if (result != RCL_RET_OK) {
        std::cerr << "listener: " << what << ": " << rcl_get_error_string().str << '\n';
        std::exit(2);
    }
}

void print(const Verdict& verdict) {
    std::cout << Instant::now().monotonic_ns << '\t' << int(verdict.state) << '\t'
              << int(verdict.mode) << '\t' << verdict.silent_ms << '\t' << verdict.lost << '\t'
              << (verdict.usable() ? std::int64_t(verdict.size) : -1) << '\t' << verdict.reason
              << std::endl;
}

// Messages of the generated type can be checked as well.
using Generated = perception_interfaces::msg::Protected;
[[maybe_unused]] Verdict check(Consumer& consumer, const Generated& one) {
    return consumer.check(one);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "usage: listener TOPIC SENT_AS CONTENT\n";
        return 2;
    }
    rcl_allocator_t allocator = rcl_get_default_allocator();
    rcl_init_options_t options = rcl_get_zero_initialized_init_options();
    must(rcl_init_options_init(&options, allocator), "options");
    rcl_context_t context = rcl_get_zero_initialized_context();
    must(rcl_init(0, nullptr, &options, &context), "init");
    rcl_node_t node = rcl_get_zero_initialized_node();
    rcl_node_options_t node_options = rcl_node_get_default_options();
    must(rcl_node_init(&node, "listener", "", &context, &node_options), "node");
    rcl_subscription_t subscription = rcl_get_zero_initialized_subscription();
    rcl_subscription_options_t subscribed = rcl_subscription_get_default_options();
    const auto* type = ROSIDL_GET_MSG_TYPE_SUPPORT(perception_interfaces, msg, Protected);
    must(rcl_subscription_init(&subscription, &node, type, arguments[1], &subscribed), "topic");
    rcl_wait_set_t waiting = rcl_get_zero_initialized_wait_set();
    must(rcl_wait_set_init(&waiting, 1, 0, 0, 0, 0, 0, &context, allocator), "wait set");
    rcl_serialized_message_t message = rmw_get_zero_initialized_serialized_message();
    must(rmw_serialized_message_init(&message, 0, &allocator), "message");

    Consumer consumer{arguments[2], static_cast<Content>(std::atoi(arguments[3]))};
    Nobody planner;
    for (;;) {
        must(rcl_wait_set_clear(&waiting), "wait");
        must(rcl_wait_set_add_subscription(&waiting, &subscription, nullptr), "wait");
        if (rcl_wait(&waiting, WAIT_NS) == RCL_RET_TIMEOUT) {
            print(cycle(consumer, nullptr, 0, planner));
        }
        while (!rcl_take_serialized_message(&subscription, &message, nullptr, nullptr)) {
            print(cycle(consumer, message.buffer, message.buffer_length, planner));
        }
        rcl_reset_error();
    }
}
