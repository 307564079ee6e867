// Serves sim/process.py over standard input and output: register accesses, DDR contents by a back door, and cycles.
//
// A request is three 64-bit words (command, first, second), a reply two (value, cycle); a poke's bytes follow its
// request, a peek's and the events their reply. All little endian. The process ends with its input.
//
// Arguments: DDR bytes per 1000 cycles, latency in cycles, refresh seed (struct DdrTiming).

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "core.hpp"

enum Command : uint64_t { READ, WRITE, ADD, REMOVE, POKE, PEEK, RUN, TRAFFIC, EVENTS };

struct Request {
    uint64_t command, first, second;
};

struct Reply {
    uint64_t value, cycle;
};

static void send(const void *bytes, size_t length) {
    if (std::fwrite(bytes, 1, length, stdout) != length) throw std::runtime_error("standard output is closed");
}

static void receive(void *bytes, size_t length) {
    if (std::fread(bytes, 1, length, stdin) != length) throw std::runtime_error("standard input ended in a request");
}

static uint8_t *find(Memory &memory, const Request &request) {
    uint8_t *bytes = memory.find(request.first, request.second);
    if (bytes == nullptr) throw std::runtime_error("a back door access is outside every buffer");
    return bytes;
}

static uint64_t serve(Core &core, Memory &memory, const Request &request) {
    constexpr uint8_t POISON = 0xA5;  // sim.buffers.POISON
    switch (request.command) {
    case READ: return core.read_register(request.first);
    case WRITE: core.write_register(request.first, request.second); return 0;
    case ADD: memory.add(request.first, request.second, POISON); return 0;
    case REMOVE: memory.remove(request.first); return 0;
    case POKE: receive(find(memory, request), request.second); return 0;
    case PEEK: find(memory, request); return 0;
    case RUN: core.run(request.first); return 0;
    case TRAFFIC: return request.first ? core.bytes_written() : core.bytes_read();
    case EVENTS: return core.events.size();
    }
    throw std::runtime_error("unknown command");
}

int main(int count, char **arguments) try {
    if (count != 4) throw std::runtime_error("three arguments are needed");
    const DdrTiming timing{std::strtoull(arguments[1], nullptr, 10), std::strtoull(arguments[2], nullptr, 10),
                           std::strtoull(arguments[3], nullptr, 10)};
    Memory memory;
    Core core(memory, timing);
    Request request;
    while (std::fread(&request, sizeof request, 1, stdin) == 1) {
        const uint64_t value = serve(core, memory, request);
        const Reply reply{value, core.cycle()};
        send(&reply, sizeof reply);
        if (request.command == PEEK) send(find(memory, request), request.second);
        if (request.command == EVENTS) {
            send(core.events.data(), core.events.size() * sizeof(Event));
            core.events.clear();
        }
        std::fflush(stdout);
    }
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "simulation: %s\n", error.what());
    return 1;
}
