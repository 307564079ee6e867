// Timing of the DDR behind all AXI4 ports: latency, a shared bandwidth, refresh-like pauses; and one port's bursts.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>

#include "memory.hpp"

// What the modelled DDR can do; 0 bytes per 1000 cycles means no limit.
struct DdrTiming {
    uint64_t bytes_per_1000_cycles;
    uint64_t latency_cycles;   // from an accepted address to the first beat, and from the last written beat to B
    uint64_t refresh_seed;     // 0: no pauses
};

constexpr uint64_t REFRESH_INTERVAL_CYCLES = 1950;  // 7.8 us at 250 MHz (DDR4 tREFI)
constexpr uint64_t REFRESH_CYCLES = 88;             // 350 ns at 250 MHz (DDR4 tRFC, 8 Gbit)

// Credit of a leaky bucket that every beat of every port is paid from.
class Bandwidth {
public:
    Bandwidth(const DdrTiming &timing, uint64_t ports, uint64_t beat_bytes)
        : timing_(timing), beat_cost_(1000 * beat_bytes), limit_(ports * beat_cost_ + timing.bytes_per_1000_cycles),
          random_(timing.refresh_seed) {}

    // Starts a cycle: new credit, up to a beat on every port, none during a refresh.
    void start_cycle() {
        if (timing_.refresh_seed != 0 && --to_refresh_ == 0) {
            refresh_left_ = REFRESH_CYCLES;
            to_refresh_ = REFRESH_INTERVAL_CYCLES / 2 + next_random() % REFRESH_INTERVAL_CYCLES;
        }
        if (refresh_left_ != 0) {
            --refresh_left_;
            return;
        }
        credit_ += timing_.bytes_per_1000_cycles;
        if (credit_ > limit_) credit_ = limit_;
    }

    // Pays for one beat; false if there is not enough credit.
    bool take() {
        if (refresh_left_ != 0) return false;
        if (timing_.bytes_per_1000_cycles == 0) return true;
        if (credit_ < beat_cost_) return false;
        credit_ -= beat_cost_;
        return true;
    }

    // Gives back a beat that was paid for and not used.
    void give_back() {
        if (timing_.bytes_per_1000_cycles != 0) credit_ += beat_cost_;
    }

private:
    uint64_t next_random() {  // xorshift64
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        random_ ^= random_ << 17;
        return random_;
    }

    DdrTiming timing_;
    uint64_t beat_cost_, limit_, random_;
    uint64_t credit_ = 0, to_refresh_ = REFRESH_INTERVAL_CYCLES, refresh_left_ = 0;
};

// Pins of one AXI4 master of the core, as the DDR sees them.
struct PortInputs {
    bool arvalid, rready, awvalid, wvalid, wlast, bready;
    uint64_t araddr, awaddr;
    uint32_t arlen, arid, awid;
    const void *wdata;
};

struct PortOutputs {
    bool arready, rvalid, rlast, awready, wready, bvalid;
    uint32_t rid, rresp, bid, bresp;
};

constexpr uint32_t SLVERR = 2;
constexpr size_t MAX_BURSTS = 16;  // of each direction that a port accepts before the first is answered

// Serves the bursts of one port in order: full beats, incrementing addresses.
class DdrPort {
public:
    DdrPort(Memory &memory, Bandwidth &bandwidth, uint64_t latency_cycles, uint64_t beat_bytes)
        : memory_(memory), bandwidth_(bandwidth), latency_cycles_(latency_cycles), beat_bytes_(beat_bytes) {}

    // Decides what the port offers in this cycle; read data goes to rdata, beat_bytes long.
    const PortOutputs &drive(uint64_t cycle, void *rdata) {
        out_.arready = reads_.size() < MAX_BURSTS;
        out_.awready = writes_.size() < MAX_BURSTS;
        if (!out_.rvalid && !reads_.empty() && reads_.front().due <= cycle && bandwidth_.take()) offer_read(rdata);
        if (!out_.wready) out_.wready = has_open_write() && bandwidth_.take();
        if (!out_.bvalid && !replies_.empty() && replies_.front().due <= cycle) {
            out_.bvalid = true;
            out_.bid = replies_.front().id;
            out_.bresp = replies_.front().response;
        }
        return out_;
    }

    // Completes the transfers of this cycle.
    void sample(uint64_t cycle, const PortInputs &in) {
        if (out_.rvalid && in.rready) {
            out_.rvalid = false;
            bytes_read += beat_bytes_;
        }
        if (out_.wready) {
            if (in.wvalid) take_write(cycle, in);
            else bandwidth_.give_back();
            out_.wready = false;
        }
        if (out_.bvalid && in.bready) {
            out_.bvalid = false;
            replies_.pop_front();
        }
        if (out_.arready && in.arvalid) reads_.push_back({in.araddr, in.arlen + 1, in.arid, 0, cycle + latency_cycles_});
        if (out_.awready && in.awvalid) writes_.push_back({in.awaddr, 0, in.awid, 0, 0});
    }

    uint64_t bytes_read = 0, bytes_written = 0;

private:
    struct Burst {
        uint64_t address;
        uint32_t beats;     // left; unused for writes, whose last beat ends them
        uint32_t id;
        uint32_t response;
        uint64_t due;
    };

    bool has_open_write() const { return !writes_.empty(); }

    void offer_read(void *rdata) {
        Burst &burst = reads_.front();
        const uint8_t *bytes = memory_.find(burst.address, beat_bytes_);
        if (bytes != nullptr) std::memcpy(rdata, bytes, beat_bytes_);
        out_.rvalid = true;
        out_.rid = burst.id;
        out_.rresp = bytes == nullptr ? SLVERR : 0;
        burst.address += beat_bytes_;
        out_.rlast = --burst.beats == 0;
        if (out_.rlast) reads_.pop_front();
    }

    void take_write(uint64_t cycle, const PortInputs &in) {
        Burst &burst = writes_.front();
        uint8_t *bytes = memory_.find(burst.address, beat_bytes_);
        if (bytes != nullptr) std::memcpy(bytes, in.wdata, beat_bytes_);
        else burst.response = SLVERR;
        burst.address += beat_bytes_;
        bytes_written += beat_bytes_;
        if (in.wlast) {
            replies_.push_back({0, 0, burst.id, burst.response, cycle + latency_cycles_});
            writes_.pop_front();
        }
    }

    Memory &memory_;
    Bandwidth &bandwidth_;
    uint64_t latency_cycles_, beat_bytes_;
    PortOutputs out_{};
    std::deque<Burst> reads_, writes_, replies_;
};
