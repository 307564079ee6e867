// The Verilated core with a DDR on its AXI4 ports, one clock cycle at a time; register accesses over AXI4-Lite.
//
// Compiled with AXI_PORTS and AXI_BYTES, the core's port count and the bytes of a beat. Little-endian hosts only: a
// beat lies in the model's words as it does in memory.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "ddr.hpp"
#include "memory.hpp"

// Calls M(port) for every AXI4 port.
#if AXI_PORTS == 1
#define EACH_PORT(M) M(0)
#elif AXI_PORTS == 2
#define EACH_PORT(M) M(0) M(1)
#elif AXI_PORTS == 3
#define EACH_PORT(M) M(0) M(1) M(2)
#else
#define EACH_PORT(M) M(0) M(1) M(2) M(3)
#endif

// Calls M(index, name) for every unit, in the order of hw.isa.Unit.
#define EACH_UNIT(M) M(0, load) M(1, operand) M(2, gemm) M(3, vector) M(4, store)
// Verilator writes a double underscore of a Verilog name as ___05F.
#define COMMAND_VALID command___05Fvalid
#define COMMAND_READY command___05Fready
#define UNIT_SIGNAL(unit, signal) UNIT_SIGNAL_OF(unit, signal)
#define UNIT_SIGNAL_OF(unit, signal) top_.rootp->heatvit_core__DOT__sequencer__DOT__##unit##__DOT__##signal

// The counters of a unit as hw.regmap has them: the stalls in the order of hw.regmap.Stall, 0 where none is counted,
// and its WAIT.
#define COUNTER(name) top_.rootp->heatvit_core__DOT__csr__DOT__##name
#define COUNTERS_load {0, 0, 0, COUNTER(stall_load_memory), COUNTER(wait_load)}
#define COUNTERS_operand {COUNTER(stall_operand_operand), 0, COUNTER(stall_operand_drain), 0, COUNTER(wait_operand)}
#define COUNTERS_gemm \
    {COUNTER(stall_gemm_operand), COUNTER(stall_gemm_weight), COUNTER(stall_gemm_drain), 0, COUNTER(wait_gemm)}
#define COUNTERS_vector \
    {COUNTER(stall_vector_operand), COUNTER(stall_vector_weight), COUNTER(stall_vector_drain), 0, COUNTER(wait_vector)}
#define COUNTERS_store {COUNTER(stall_store_operand), 0, 0, COUNTER(stall_store_memory), COUNTER(wait_store)}

// A unit took a descriptor, or completed one; and its counters then.
struct Event {
    uint64_t cycle;
    uint32_t unit;
    uint32_t is_done;
    std::array<uint32_t, 5> counters;
    uint32_t padding;
};

constexpr uint64_t REGISTER_TIMEOUT_CYCLES = 10000;

class Core {
public:
    Core(Memory &memory, const DdrTiming &timing) : bandwidth_(timing, AXI_PORTS, AXI_BYTES) {
        for (int port = 0; port < AXI_PORTS; ++port)
            ports_.emplace_back(memory, bandwidth_, timing.latency_cycles, AXI_BYTES);
        top_.rst = 1;
        run(4);
        top_.rst = 0;
        run(2);
    }

    ~Core() { top_.final(); }

    void run(uint64_t cycles) {
        for (; cycles != 0; --cycles) tick();
    }

    uint32_t read_register(uint32_t offset) {
        top_.s_axi_control_araddr = offset;
        top_.s_axi_control_arvalid = 1;
        top_.s_axi_control_rready = 1;
        wait([&] {
            if (lite_.arready) top_.s_axi_control_arvalid = 0;
            return lite_.rvalid;
        });
        return lite_.rdata;
    }

    void write_register(uint32_t offset, uint32_t value) {
        top_.s_axi_control_awaddr = offset;
        top_.s_axi_control_wdata = value;
        top_.s_axi_control_wstrb = 0xF;
        top_.s_axi_control_awvalid = top_.s_axi_control_wvalid = 1;
        top_.s_axi_control_bready = 1;
        wait([&] {
            if (lite_.awready) top_.s_axi_control_awvalid = 0;
            if (lite_.wready) top_.s_axi_control_wvalid = 0;
            return lite_.bvalid;
        });
    }

    uint64_t cycle() const { return cycle_; }

    uint64_t bytes_read() const {
        uint64_t sum = 0;
        for (const DdrPort &port : ports_) sum += port.bytes_read;
        return sum;
    }

    uint64_t bytes_written() const {
        uint64_t sum = 0;
        for (const DdrPort &port : ports_) sum += port.bytes_written;
        return sum;
    }

    // Events since the start or the last clear.
    std::vector<Event> events;

private:
    struct LiteReplies {
        bool arready, rvalid, awready, wready, bvalid;
        uint32_t rdata;
    };

    template <typename Condition> void wait(Condition is_over) {
        for (uint64_t left = REGISTER_TIMEOUT_CYCLES; left != 0; --left) {
            tick();
            if (is_over()) return;
        }
        throw std::runtime_error("the core does not answer a register access");
    }

    // One clock cycle: the DDR offers, the core's outputs settle, transfers complete, the clock rises.
    void tick() {
        bandwidth_.start_cycle();
        // The port that is served first moves on every cycle, so that none starves.
        for (int turn = 0; turn < AXI_PORTS; ++turn) drive((cycle_ + turn) % AXI_PORTS);
        top_.clk = 0;
        top_.eval();
#define SAMPLE_PORT(P) \
    ports_[P].sample(cycle_, {static_cast<bool>(top_.m_axi_gmem##P##_arvalid), \
                              static_cast<bool>(top_.m_axi_gmem##P##_rready), \
                              static_cast<bool>(top_.m_axi_gmem##P##_awvalid), \
                              static_cast<bool>(top_.m_axi_gmem##P##_wvalid), \
                              static_cast<bool>(top_.m_axi_gmem##P##_wlast), \
                              static_cast<bool>(top_.m_axi_gmem##P##_bready), \
                              top_.m_axi_gmem##P##_araddr, top_.m_axi_gmem##P##_awaddr, top_.m_axi_gmem##P##_arlen, \
                              top_.m_axi_gmem##P##_arid, top_.m_axi_gmem##P##_awid, &top_.m_axi_gmem##P##_wdata});
        EACH_PORT(SAMPLE_PORT)
#undef SAMPLE_PORT
        lite_ = {static_cast<bool>(top_.s_axi_control_arready), static_cast<bool>(top_.s_axi_control_rvalid),
                 static_cast<bool>(top_.s_axi_control_awready), static_cast<bool>(top_.s_axi_control_wready),
                 static_cast<bool>(top_.s_axi_control_bvalid), top_.s_axi_control_rdata};
#define RECORD_UNIT(INDEX, UNIT) \
    if (UNIT_SIGNAL(UNIT, done)) events.push_back({cycle_, INDEX, 1, COUNTERS_##UNIT, 0}); \
    if (UNIT_SIGNAL(UNIT, COMMAND_VALID) && UNIT_SIGNAL(UNIT, COMMAND_READY)) events.push_back({cycle_, INDEX, 0, {}, 0});
        EACH_UNIT(RECORD_UNIT)
#undef RECORD_UNIT
        top_.clk = 1;
        top_.eval();
        ++cycle_;
    }

    void drive(int port) {
        switch (port) {
#define DRIVE_PORT(P) \
    case P: { \
        const PortOutputs &out = ports_[P].drive(cycle_, &top_.m_axi_gmem##P##_rdata); \
        top_.m_axi_gmem##P##_arready = out.arready; \
        top_.m_axi_gmem##P##_rvalid = out.rvalid; \
        top_.m_axi_gmem##P##_rlast = out.rlast; \
        top_.m_axi_gmem##P##_rid = out.rid; \
        top_.m_axi_gmem##P##_rresp = out.rresp; \
        top_.m_axi_gmem##P##_awready = out.awready; \
        top_.m_axi_gmem##P##_wready = out.wready; \
        top_.m_axi_gmem##P##_bvalid = out.bvalid; \
        top_.m_axi_gmem##P##_bid = out.bid; \
        top_.m_axi_gmem##P##_bresp = out.bresp; \
        break; \
    }
            EACH_PORT(DRIVE_PORT)
#undef DRIVE_PORT
        }
    }

    Vtop top_;
    Bandwidth bandwidth_;
    std::vector<DdrPort> ports_;
    LiteReplies lite_{};
    uint64_t cycle_ = 0;
};
