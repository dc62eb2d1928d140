// Tells a planner whether what it received of perception_nodes can be relied on.
//
// A Consumer judges the messages of one protected topic (perception_interfaces/Protected) and says
// which mode the planner is to be in. It allocates nothing, throws nothing, knows neither ROS nor
// threads: who uses it passes on each message that comes, and calls it, too, when none has come.
// docs/safety.md tells what it assumes and what it promises. C++17, no dependencies.
//
// perception_nodes/protection/ has the same rules in Python; a test compares the two.
#ifndef PERCEPTION_CONSUMER_CONSUMER_HPP
#define PERCEPTION_CONSUMER_CONSUMER_HPP

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

namespace perception_consumer {

// How far the graph's results can be relied on, the best mode first; as in Health.msg.
enum class Mode : std::uint8_t { NOMINAL, DEGRADED, SKIPPING, UNSAFE };

enum class State : std::uint8_t {
    OK,
    NOTHING_NEW,  // no message was passed on, and the last usable one is not old
    LOST,         // this message is right, and others before it did not come
    LATE,         // not altered, but received after its deadline and the time for transport
    REPEATED,     // it, or one that was sent after it, has come before
    WRONG,        // altered, of another topic or sender, or its clock is another than ours
    SILENT,       // no message was passed on, and there was no usable one for too long
};

// What the messages of a topic say of the mode that the vehicle is to be in.
enum class Content : std::uint8_t { OBJECTS, HEALTH, SAFE_STOP };

// A moment: a clock that never steps, for durations, and nanoseconds since the Unix epoch.
struct Instant {
    std::int64_t monotonic_ns;
    std::int64_t wall_ns;

    static Instant now() noexcept {
        using namespace std::chrono;
        const nanoseconds monotonic = steady_clock::now().time_since_epoch();
        const nanoseconds wall = system_clock::now().time_since_epoch();
        return {monotonic.count(), wall.count()};
    }
};

inline constexpr std::int32_t MAX_TOLERATED = 7;

// What a consumer demands. Without limits that can be held it finds no message usable.
struct Limits {
    std::int32_t transport_ms = 10;      // a message may be received so long after its deadline
    std::int32_t ahead_ms = 200;         // a deadline further ahead means that the clocks differ
    std::int32_t silent_after_ms = 250;  // without a usable message for longer: DEGRADED
    std::int32_t unsafe_after_ms = 500;  // for longer: UNSAFE; at least transport_ms + ahead_ms
    std::int32_t tolerated = 2;          // so many lost, late or repeated ones leave it NOMINAL
    std::int32_t hold_ms = 1000;         // a fault counts for so long

    constexpr bool can_be_held() const noexcept {
        return tolerated >= 0 && tolerated <= MAX_TOLERATED &&
               std::int64_t{unsafe_after_ms} >= std::int64_t{transport_ms} + ahead_ms;
    }
};

// The answer to a call.
struct Verdict {
    State state;
    Mode mode;                    // that this topic asks the planner to be in
    std::int64_t silent_ms;       // since the last usable message, or since the first call
    std::uint32_t lost;           // messages between this one and the last that did not come
    const std::uint8_t* message;  // the serialized message inside; null if it is not usable
    std::size_t size;             // its bytes
    const char* reason;           // what is wrong, where the state is WRONG; else empty

    constexpr bool usable() const noexcept { return message != nullptr; }
};

// The fields of a perception_interfaces/Protected; data is owned by who received the message.
struct Fields {
    std::uint64_t crc;
    std::uint32_t length;
    std::uint32_t counter;
    std::uint32_t data_id;
    std::int64_t deadline_ns;
    const std::uint8_t* data;
    std::size_t size;
};

namespace detail {

// CRC-64/XZ, eight bytes at a time (Kounavis and Berry, "Novel Table Lookup-Based Algorithms for
// High-Performance CRC Generation", 2008).
struct Crc64Tables {
    std::array<std::array<std::uint64_t, 256>, 8> of{};

    constexpr Crc64Tables() noexcept {
        for (std::uint64_t byte = 0; byte < 256; ++byte) {
            std::uint64_t crc = byte;
            for (int bit = 0; bit < 8; ++bit) {
                crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xC96C5795D7870F42u : 0u);
            }
            of[0][byte] = crc;
        }
        for (std::size_t table = 1; table < 8; ++table) {
            for (std::size_t byte = 0; byte < 256; ++byte) {
                const std::uint64_t before = of[table - 1][byte];
                of[table][byte] = (before >> 8) ^ of[0][before & 0xFF];
            }
        }
    }
};

inline constexpr Crc64Tables CRC64{};

class Crc64 {
  public:
    template <class Byte>
    constexpr void add(const Byte* bytes, std::size_t size) noexcept {
        for (; size >= 8; bytes += 8, size -= 8) {
            std::uint64_t eight = crc_;
            for (unsigned n = 0; n < 8; ++n) {
                eight ^= std::uint64_t{static_cast<std::uint8_t>(bytes[n])} << (8 * n);
            }
            crc_ = 0;
            for (unsigned n = 0; n < 8; ++n) {
                crc_ ^= CRC64.of[7 - n][(eight >> (8 * n)) & 0xFF];
            }
        }
        for (; size > 0; ++bytes, --size) {
            crc_ = (crc_ >> 8) ^ CRC64.of[0][(crc_ ^ static_cast<std::uint8_t>(*bytes)) & 0xFF];
        }
    }

    // A number, its most significant byte first.
    constexpr void add_number(std::uint64_t number, unsigned size) noexcept {
        for (unsigned shift = 8 * size; shift > 0; shift -= 8) {
            const auto byte = static_cast<std::uint8_t>(number >> (shift - 8));
            add(&byte, 1);
        }
    }

    constexpr std::uint64_t value() const noexcept { return ~crc_; }

  private:
    std::uint64_t crc_ = ~std::uint64_t{0};
};

// A number of plain little-endian CDR, whatever the byte order of this machine.
constexpr std::uint64_t number_at(const std::uint8_t* bytes, unsigned size) noexcept {
    std::uint64_t number = 0;
    for (unsigned n = 0; n < size; ++n) {
        number |= std::uint64_t{bytes[n]} << (8 * n);
    }
    return number;
}

// a - b, or the nearest number that there is: what a message says may be any number.
constexpr std::int64_t difference(std::int64_t a, std::int64_t b) noexcept {
    constexpr std::int64_t lowest = std::numeric_limits<std::int64_t>::min();
    constexpr std::int64_t highest = std::numeric_limits<std::int64_t>::max();
    if (b < 0 && a > highest + b) {
        return highest;
    }
    return b > 0 && a < lowest + b ? lowest : a - b;
}

}  // namespace detail

// Identifies a topic by its full name, such as "/perception/detections/protected"; in a message, the
// lower 16 bits are XORed with those of the sender.
constexpr std::uint32_t data_id(std::string_view topic) noexcept {
    detail::Crc64 crc;
    crc.add(topic.data(), topic.size());
    return static_cast<std::uint32_t>(crc.value());
}

class Consumer {
  public:
    // Until the first usable message the mode is UNSAFE.
    explicit constexpr Consumer(std::string_view topic, Content content = Content::OBJECTS,
                                Limits limits = {}) noexcept
        : identity_(data_id(topic)), content_(content), limits_(limits) {}

    // Judges a serialized message, which has come at `now`, and the topic as a whole. The verdict's
    // message is a part of it.
    Verdict check(const void* serialized, std::size_t size, Instant now = Instant::now()) noexcept {
        const auto* bytes = static_cast<const std::uint8_t*>(serialized);
        begin(now);
        if (size < ENVELOPE || bytes[0] != 0 || bytes[1] != 1) {
            return judged(now, wrong("not a protected message"));
        }
        const Fields fields = read(bytes);
        if (fields.size > size - ENVELOPE) {
            return judged(now, wrong("length"));
        }
        return judged(now, received(fields, now));
    }

    // Judges a message whose fields have been read.
    Verdict check(const Fields& fields, Instant now = Instant::now()) noexcept {
        begin(now);
        return judged(now, received(fields, now));
    }

    // Judges a message of the type that ROS generates of Protected.msg.
    template <class Message>
    auto check(const Message& message, Instant now = Instant::now()) noexcept
        -> decltype(message.deadline_ns, message.data.data(), Verdict{}) {
        return check(Fields{message.crc, message.length, message.counter, message.data_id,
                            message.deadline_ns, message.data.data(), message.data.size()},
                     now);
    }

    // Judges the topic when no message has come.
    Verdict check(Instant now = Instant::now()) noexcept {
        begin(now);
        const bool silent = silent_ns(now) > MS * limits_.silent_after_ms;
        return judged(now, {silent ? State::SILENT : State::NOTHING_NEW, 0, nullptr, 0, ""});
    }

  private:
    static constexpr std::int64_t MS = 1'000'000;
    static constexpr std::size_t ENVELOPE = 40;  // bytes of a serialized message before its data
    static constexpr std::uint32_t OVERHEAD = 28;
    static constexpr unsigned SENDER_BITS = 16;  // lower bits of data_id that the sender changes
    static constexpr std::size_t MAX_BYTES = std::size_t{4} << 20;  // by the profile
    static constexpr std::uint32_t ALL = MAX_TOLERATED + 1;

    struct Found {
        State state;
        std::uint32_t lost;
        const std::uint8_t* data;
        std::size_t size;
        const char* reason;
    };

    static constexpr Found wrong(const char* reason) noexcept {
        return {State::WRONG, 0, nullptr, 0, reason};
    }

    // The fields of a serialized message; padding is there for deadline_ns.
    static Fields read(const std::uint8_t* bytes) noexcept {
        const auto u32 = [bytes](std::size_t at) {
            return static_cast<std::uint32_t>(detail::number_at(bytes + at, 4));
        };
        const auto deadline_ns = static_cast<std::int64_t>(detail::number_at(bytes + 28, 8));
        return {detail::number_at(bytes + 4, 8), u32(12), u32(16), u32(20), deadline_ns,
                bytes + ENVELOPE, u32(36)};
    }

    void begin(Instant now) noexcept {
        if (!begun_) {
            begun_ = true;
            since_ns_ = now.monotonic_ns;
        }
        if (unsafe(now) || told_ == Mode::UNSAFE) {
            note(ALL, now);
        }
    }

    Found received(const Fields& fields, Instant now) noexcept {
        if (fields.size > MAX_BYTES - OVERHEAD || fields.length != OVERHEAD + fields.size) {
            return wrong("length");
        }
        detail::Crc64 crc;
        crc.add_number(fields.length, 4);
        crc.add_number(fields.counter, 4);
        crc.add_number(fields.data_id, 4);
        crc.add_number(static_cast<std::uint64_t>(fields.deadline_ns), 8);
        crc.add(fields.data, fields.size);
        if (crc.value() != fields.crc) {
            return wrong("CRC");
        }
        const std::uint32_t sender = fields.data_id ^ identity_;
        if (sender >> SENDER_BITS != 0) {
            return wrong("data id: of another topic");
        }
        Mode told = Mode::NOMINAL;
        if (!tells(fields, told)) {
            return wrong("another message inside");
        }
        if (!limits_.can_be_held()) {
            return wrong("limits that cannot be held");
        }
        const std::int64_t late_ns = detail::difference(now.wall_ns, fields.deadline_ns);
        if (late_ns < -MS * limits_.ahead_ms) {
            return wrong("deadline far ahead: the clocks differ");
        }
        const bool late = late_ns > MS * limits_.transport_ms;
        // A graph that was started anew is another sender. It is believed if the mode is UNSAFE
        // without it; of two at once, the first one is.
        const bool other = !counted_ || sender != sender_;
        if (other && !unsafe(now)) {
            return wrong("data id: of another sender");
        }
        const std::uint32_t ahead = other ? 1 : fields.counter - counter_;
        const bool newer = ahead != 0 && ahead < 0x80000000u;
        // A sender may count anew from a lower number. It is believed if the mode is UNSAFE without
        // it and it is in time, which what was sent earlier is not.
        if (!newer && (late || !unsafe(now))) {
            return {State::REPEATED, 0, nullptr, 0, ""};
        }
        const std::uint32_t lost = newer ? ahead - 1 : 0;
        sender_ = sender;
        counter_ = fields.counter;
        counted_ = true;
        if (late) {
            // A request to be careful is believed all the same.
            told_ = told > told_ ? told : told_;
            return {State::LATE, lost, nullptr, 0, ""};
        }
        usable_ = true;
        since_ns_ = now.monotonic_ns;
        told_ = told;
        return {lost != 0 ? State::LOST : State::OK, lost, fields.data, fields.size, ""};
    }

    // The mode that a message asks for; false if it is none of the topic's type.
    bool tells(const Fields& fields, Mode& told) const noexcept {
        if (content_ == Content::HEALTH) {  // Health: encapsulation, stamp, mode
            if (fields.size <= 12 || fields.data[12] > static_cast<std::uint8_t>(Mode::UNSAFE)) {
                return false;
            }
            told = static_cast<Mode>(fields.data[12]);
        } else if (content_ == Content::SAFE_STOP) {  // Bool: encapsulation, data
            if (fields.size <= 4) {
                return false;
            }
            told = fields.data[4] != 0 ? Mode::UNSAFE : Mode::NOMINAL;
        }
        return true;
    }

    Verdict judged(Instant now, const Found& found) noexcept {
        if (found.state == State::WRONG || found.state == State::SILENT) {
            note(ALL, now);
        } else {
            const bool fault = found.state == State::LATE || found.state == State::REPEATED;
            note((found.lost < ALL ? found.lost : ALL) + (fault ? 1 : 0), now);
        }
        return {found.state, mode(now),  silent_ns(now) / MS, found.lost,
                found.data,  found.size, found.reason};
    }

    void note(std::uint32_t faults, Instant now) noexcept {
        for (std::uint32_t n = 0; n < faults && n < ALL; ++n) {
            faults_ns_[next_fault_] = now.monotonic_ns;
            next_fault_ = (next_fault_ + 1) % ALL;
            noted_ += noted_ < ALL ? 1 : 0;
        }
    }

    Mode mode(Instant now) const noexcept {
        if (unsafe(now)) {
            return Mode::UNSAFE;
        }
        const auto enough = static_cast<std::uint32_t>(limits_.tolerated + 1);
        if (noted_ >= enough) {
            const std::uint32_t first = (next_fault_ + ALL - enough) % ALL;
            if (detail::difference(now.monotonic_ns, faults_ns_[first]) <= MS * limits_.hold_ms) {
                return told_ > Mode::DEGRADED ? told_ : Mode::DEGRADED;
            }
        }
        return told_;
    }

    // Whether there is nothing to rely on.
    bool unsafe(Instant now) const noexcept {
        return !usable_ || silent_ns(now) > MS * limits_.unsafe_after_ms;
    }

    std::int64_t silent_ns(Instant now) const noexcept {
        return detail::difference(now.monotonic_ns, since_ns_);
    }

    std::uint32_t identity_;
    Content content_;
    Limits limits_;
    bool begun_ = false;
    bool counted_ = false;
    bool usable_ = false;
    Mode told_ = Mode::NOMINAL;
    std::uint32_t sender_ = 0;
    std::uint32_t counter_ = 0;
    std::int64_t since_ns_ = 0;  // the last usable message, or the first call
    std::array<std::int64_t, ALL> faults_ns_{};
    std::uint32_t next_fault_ = 0;
    std::uint32_t noted_ = 0;
};

}  // namespace perception_consumer

#endif
