// DDR contents as the core sees them: live buffers only, each a block of bytes at its own address.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

class Memory {
public:
    // Adds a buffer whose bytes all have the value fill; buffers do not overlap.
    void add(uint64_t address, uint64_t size, uint8_t fill) { buffers_[address].assign(size, fill); }

    void remove(uint64_t address) { buffers_.erase(address); }

    // Returns the bytes at an address, or nullptr if not all of them lie in one live buffer.
    uint8_t *find(uint64_t address, uint64_t length) {
        auto next = buffers_.upper_bound(address);
        if (next == buffers_.begin()) return nullptr;
        auto &[base, bytes] = *std::prev(next);
        const uint64_t offset = address - base;
        return offset + length <= bytes.size() ? bytes.data() + offset : nullptr;
    }

private:
    std::map<uint64_t, std::vector<uint8_t>> buffers_;
};
