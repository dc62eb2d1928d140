// The simulated engine: see engine_sim.h. The memory answers reads in their order and writes with
// an answer a burst; latency, back-pressure and faults are drawn from a seeded generator.

#include "engine_sim.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <random>
#include <string>

#include "Vengine.h"
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

namespace {

constexpr uint32_t kBeat = 16;
constexpr int kHangs = -1;
constexpr uint32_t kRegisterLimit = 1000;

struct Burst {
    uint64_t address;
    uint32_t beats;
    uint64_t due;  // the first cycle of an answer
    uint32_t done = 0;
    int response = 0;  // of a write; of a read only whether it hangs: each beat has its own
};

struct Beat {
    uint8_t data[kBeat];
    uint16_t strobe;
    bool last;
};

// A valid-ready channel as the engine drives it: once valid, it waits for ready unchanged.
struct Channel {
    const char *name;
    bool waiting = false;
    uint8_t payload[sizeof(Beat)] = {};

    explicit Channel(const char *name) : name(name) {}
};

}  // namespace

struct engine {
    VerilatedContext context;
    Vengine *top = nullptr;
    uint8_t *memory = nullptr;
    uint64_t size = 0;
    uint64_t cycle = 0;

    std::mt19937_64 latency_random, pressure_random;
    uint32_t smallest = 32, largest = 32, percent = 0, outstanding = 8;
    uint64_t fault_begin = 0, fault_end = 0;
    int fault = 0;

    std::deque<Burst> reads, writes, answers;
    std::deque<Beat> data;  // of writes; it may come before its address
    bool read_taken = false, answer_taken = false;

    Channel ar{"AR"}, aw{"AW"}, w{"W"};
    Channel b{"register B"}, r{"register R"};
    uint64_t violations = 0;
    std::string first_violation;

    ~engine() {
        if (top) {
            top->final();
            delete top;
        }
        if (memory) munmap(memory, size);
    }

    void violation(const std::string &text) {
        if (violations++ == 0) first_violation = "cycle " + std::to_string(cycle) + ": " + text;
    }

    bool permitted() { return percent == 0 || pressure_random() % 100 >= percent; }

    uint64_t latency() { return smallest + latency_random() % (largest - smallest + 1); }

    // OKAY, the response of a fault, DECERR beyond the memory, or kHangs.
    int response(uint64_t address, uint64_t bytes) const {
        if (fault != 0 && address < fault_end && address + bytes > fault_begin) return fault;
        return address + bytes > size ? 3 : 0;
    }

    void burst_rules(const char *name, const Burst &burst, int size_code, int kind) {
        uint64_t last = burst.address + kBeat * burst.beats - 1;
        if (burst.address % kBeat) violation(std::string(name) + " is not aligned");
        if (burst.address / 4096 != last / 4096)
            violation(std::string(name) + " crosses 4 KiB");
        if (size_code != 4 || kind != 1) violation(std::string(name) + " is no burst of 16 bytes");
    }

    void watch(Channel &channel, bool valid, bool ready, const void *payload, size_t bytes) {
        if (channel.waiting && !valid)
            violation(std::string(channel.name) + ": valid fell before ready");
        else if (channel.waiting && std::memcmp(channel.payload, payload, bytes))
            violation(std::string(channel.name) + ": payload changed before ready");
        channel.waiting = valid && !ready;
        if (channel.waiting) std::memcpy(channel.payload, payload, bytes);
    }

    // What the memory drives in this cycle; its ready signals do not look at valid.
    void drive() {
        top->m_axi_arready = reads.size() < outstanding && permitted();
        top->m_axi_awready = writes.size() + answers.size() < outstanding && permitted();
        top->m_axi_wready = permitted();
        // An answer once shown stays.
        if (!top->m_axi_rvalid && !reads.empty() && reads.front().due <= cycle &&
            reads.front().response != kHangs && permitted())
            show_read();
        if (!top->m_axi_bvalid && !answers.empty() && answers.front().due <= cycle &&
            answers.front().response != kHangs && permitted()) {
            top->m_axi_bvalid = 1;
            top->m_axi_bresp = answers.front().response;
        }
    }

    void show_read() {
        const Burst &burst = reads.front();
        uint64_t address = burst.address + kBeat * burst.done;
        top->m_axi_rvalid = 1;
        // A hang is one of whole bursts, and this one was accepted.
        top->m_axi_rresp = std::max(response(address, kBeat), 0);
        top->m_axi_rlast = burst.done + 1 == burst.beats;
        if (top->m_axi_rresp == 0)
            std::memcpy(&top->m_axi_rdata, memory + address, kBeat);
        else
            std::memset(&top->m_axi_rdata, 0xA5, kBeat);
    }

    // What happens at the rising edge, seen before it.
    void observe() {
        uint64_t ar_now[2] = {top->m_axi_araddr, top->m_axi_arlen};
        uint64_t aw_now[2] = {top->m_axi_awaddr, top->m_axi_awlen};
        uint32_t r_now[2] = {top->s_axi_rdata, top->s_axi_rresp};
        Beat beat = {};
        std::memcpy(beat.data, &top->m_axi_wdata, kBeat);
        beat.strobe = top->m_axi_wstrb;
        beat.last = top->m_axi_wlast;
        watch(ar, top->m_axi_arvalid, top->m_axi_arready, ar_now, sizeof ar_now);
        watch(aw, top->m_axi_awvalid, top->m_axi_awready, aw_now, sizeof aw_now);
        watch(w, top->m_axi_wvalid, top->m_axi_wready, &beat, sizeof beat);
        watch(b, top->s_axi_bvalid, top->s_axi_bready, &top->s_axi_bresp, 1);
        watch(r, top->s_axi_rvalid, top->s_axi_rready, r_now, sizeof r_now);

        if (top->m_axi_arvalid && top->m_axi_arready) {
            Burst burst{top->m_axi_araddr, top->m_axi_arlen + 1u, cycle + latency()};
            burst_rules("AR", burst, top->m_axi_arsize, top->m_axi_arburst);
            burst.response = response(burst.address, uint64_t{kBeat} * burst.beats);
            reads.push_back(burst);
        }
        read_taken = top->m_axi_rvalid && top->m_axi_rready;
        if (read_taken && ++reads.front().done == reads.front().beats) reads.pop_front();

        if (top->m_axi_awvalid && top->m_axi_awready) {
            Burst burst{top->m_axi_awaddr, top->m_axi_awlen + 1u, 0};
            burst_rules("AW", burst, top->m_axi_awsize, top->m_axi_awburst);
            burst.response = response(burst.address, uint64_t{kBeat} * burst.beats);
            writes.push_back(burst);
        }
        if (top->m_axi_wvalid && top->m_axi_wready) data.push_back(beat);
        while (!writes.empty() && !data.empty()) write_beat();
        answer_taken = top->m_axi_bvalid && top->m_axi_bready;
        if (answer_taken) answers.pop_front();
    }

    void write_beat() {
        Burst &burst = writes.front();
        const Beat &beat = data.front();
        uint64_t address = burst.address + kBeat * burst.done;
        if (beat.last != (burst.done + 1 == burst.beats)) violation("W: last at the wrong beat");
        if (burst.response == 0)
            for (uint32_t i = 0; i < kBeat; ++i)
                if (beat.strobe >> i & 1) memory[address + i] = beat.data[i];
        data.pop_front();
        if (++burst.done == burst.beats) {
            burst.due = cycle + latency();
            answers.push_back(burst);
            writes.pop_front();
        }
    }

    void step() {
        drive();
        clock(0);
        observe();
        clock(1);
        if (read_taken) top->m_axi_rvalid = 0;
        if (answer_taken) top->m_axi_bvalid = 0;
        ++cycle;
    }

    void clock(uint8_t level) {
        top->aclk = level;
        top->eval();
    }
};

extern "C" {

engine *engine_create(uint64_t memory_bytes) {
    engine *sim = new engine;
    void *memory = mmap(nullptr, memory_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        delete sim;
        return nullptr;
    }
    sim->memory = static_cast<uint8_t *>(memory);
    sim->size = memory_bytes;
    // Random initial values, others for each simulation.
    static int simulations = 0;
    sim->context.randReset(2);
    sim->context.randSeed(++simulations);
    sim->top = new Vengine(&sim->context);
    engine_reset(sim, 4);
    return sim;
}

void engine_destroy(engine *sim) { delete sim; }

uint8_t *engine_memory(engine *sim) { return sim->memory; }

int engine_mmio_write(engine *sim, uint32_t offset, uint32_t value) {
    Vengine *top = sim->top;
    top->s_axi_awaddr = offset;
    top->s_axi_wdata = value;
    top->s_axi_wstrb = 0xF;
    top->s_axi_awvalid = top->s_axi_wvalid = 1;
    top->s_axi_bready = 0;
    int response = -1;
    for (uint32_t i = 0; i < kRegisterLimit && response < 0; ++i) {
        // Ready and valid are registers of the engine: what is seen here holds at the edge.
        bool address_taken = top->s_axi_awvalid && top->s_axi_awready;
        bool data_taken = top->s_axi_wvalid && top->s_axi_wready;
        top->s_axi_bready = top->s_axi_bvalid;
        bool answered = top->s_axi_bvalid;
        int answer = top->s_axi_bresp;
        sim->step();
        if (address_taken) top->s_axi_awvalid = 0;
        if (data_taken) top->s_axi_wvalid = 0;
        if (answered) response = answer;
    }
    top->s_axi_awvalid = top->s_axi_wvalid = top->s_axi_bready = 0;
    return response;
}

int engine_mmio_read(engine *sim, uint32_t offset, uint32_t *value) {
    Vengine *top = sim->top;
    top->s_axi_araddr = offset;
    top->s_axi_arvalid = 1;
    top->s_axi_rready = 0;
    int response = -1;
    for (uint32_t i = 0; i < kRegisterLimit && response < 0; ++i) {
        bool address_taken = top->s_axi_arvalid && top->s_axi_arready;
        top->s_axi_rready = top->s_axi_rvalid;
        bool answered = top->s_axi_rvalid;
        int answer = top->s_axi_rresp;
        uint32_t data = top->s_axi_rdata;
        sim->step();
        if (address_taken) top->s_axi_arvalid = 0;
        if (answered) {
            response = answer;
            *value = data;
        }
    }
    top->s_axi_arvalid = top->s_axi_rready = 0;
    return response;
}

void engine_step(engine *sim, uint64_t cycles) {
    for (uint64_t i = 0; i < cycles; ++i) sim->step();
}

int engine_run_until_irq(engine *sim, uint64_t limit) {
    for (uint64_t i = 0; i < limit && !sim->top->irq; ++i) sim->step();
    return sim->top->irq;
}

void engine_reset(engine *sim, uint32_t cycles) {
    Vengine *top = sim->top;
    sim->reads.clear();
    sim->writes.clear();
    sim->answers.clear();
    sim->data.clear();
    top->m_axi_rvalid = top->m_axi_bvalid = 0;
    top->s_axi_awvalid = top->s_axi_wvalid = top->s_axi_arvalid = 0;
    top->s_axi_bready = top->s_axi_rready = 0;
    top->aresetn = 0;
    // The engine's own outputs fall two cycles after the reset: what they show until then is void.
    for (uint32_t i = 0; i < cycles + 2; ++i) {
        sim->clock(0);
        sim->clock(1);
        ++sim->cycle;
    }
    for (Channel *channel : {&sim->ar, &sim->aw, &sim->w, &sim->b, &sim->r}) channel->waiting = false;
    top->aresetn = 1;
    engine_step(sim, 2);
}

void engine_set_latency(engine *sim, uint32_t smallest, uint32_t largest, uint64_t seed) {
    sim->smallest = smallest < 1 ? 1 : smallest;
    sim->largest = largest < sim->smallest ? sim->smallest : largest;
    sim->latency_random.seed(seed);
}

void engine_set_backpressure(engine *sim, uint32_t percent, uint64_t seed) {
    sim->percent = percent > 99 ? 99 : percent;
    sim->pressure_random.seed(seed);
}

void engine_set_outstanding(engine *sim, uint32_t bursts) {
    sim->outstanding = bursts < 1 ? 1 : bursts;
}

void engine_set_fault(engine *sim, uint64_t begin, uint64_t end, int response) {
    sim->fault_begin = begin;
    sim->fault_end = end;
    sim->fault = response;
}

uint64_t engine_cycles(const engine *sim) { return sim->cycle; }

uint64_t engine_violations(const engine *sim, const char **first) {
    if (first) *first = sim->first_violation.c_str();
    return sim->violations;
}

void engine_write_coverage(engine *sim, const char *path) {
#if VM_COVERAGE
    sim->context.coveragep()->write(path);
#else
    (void)sim;
    (void)path;
#endif
}

}  // extern "C"
