// Passes recorded calls to a consumer and prints its verdicts, for comparison with those in Python.
//
// Arguments: topic, content, and the six limits. Standard input: for each call the two clocks and
// the size of the message (64 bits each, -1: none has come), and the message.
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <vector>

#include "perception_consumer/consumer.hpp"

using namespace perception_consumer;

// What ROS generates of Protected.msg.
struct Generated {
    std::uint64_t crc;
    std::uint32_t length;
    std::uint32_t counter;
    std::uint32_t data_id;
    std::int64_t deadline_ns;
    std::vector<std::uint8_t> data;

    explicit Generated(const std::vector<char>& bytes) : data(bytes.begin() + 40, bytes.end()) {
        std::memcpy(&crc, &bytes[4], sizeof(crc));
        std::memcpy(&length, &bytes[12], sizeof(length));
        std::memcpy(&counter, &bytes[16], sizeof(counter));
        std::memcpy(&data_id, &bytes[20], sizeof(data_id));
        std::memcpy(&deadline_ns, &bytes[28], sizeof(deadline_ns));
    }
};

int main(int, char** arguments) {
    const auto number = [arguments](int n) { return std::atoi(arguments[n]); };
    Consumer consumer{arguments[1], static_cast<Content>(number(2)),
                      Limits{number(3), number(4), number(5), number(6), number(7), number(8)}};
    std::int64_t call[3];
    while (std::cin.read(reinterpret_cast<char*>(call), sizeof(call))) {
        const Instant now{call[0], call[1]};
        // No longer than the message, so that a sanitizer sees what is read behind it.
        std::vector<char> bytes(call[2] < 0 ? 0 : static_cast<std::size_t>(call[2]));
        std::cin.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
        Consumer same = consumer;
        const Verdict verdict =
            call[2] < 0 ? consumer.check(now) : consumer.check(bytes.data(), bytes.size(), now);
        if (verdict.usable()) {
            const Verdict again = same.check(Generated{bytes}, now);
            if (again.state != verdict.state || again.mode != verdict.mode) {
                return 1;
            }
        }
        std::cout << int(verdict.state) << '\t' << int(verdict.mode) << '\t' << verdict.silent_ms
                  << '\t' << verdict.lost << '\t'
                  << (verdict.usable() ? std::int64_t(verdict.size) : -1) << '\t' << verdict.reason
                  << '\n';
    }
}
