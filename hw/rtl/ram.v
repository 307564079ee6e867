// Simple dual-port RAM without initial contents, written as synthesis tools infer block RAM from it.
// One read and one write per cycle, with ENABLES equal parts of a word; a read in the cycle of a write to its word
// returns the old word. Addresses are below DEPTH.
module heatvit_ram #(
    parameter DEPTH = 2,
    parameter WIDTH = 1,
    parameter ENABLES = 1,
    parameter ADDRESS_WIDTH = 1
) (
    input clk,
    input [ADDRESS_WIDTH-1:0] read_address,
    output reg [WIDTH-1:0] read_data,
    input [ADDRESS_WIDTH-1:0] write_address,
    input [WIDTH-1:0] write_data,
    input [ENABLES-1:0] write_enable
);
    localparam PART = WIDTH / ENABLES;
    reg [WIDTH-1:0] words [0:DEPTH-1];

    always @(posedge clk) read_data <= words[read_address];

    // One block per part: a simulator compiles it to straight code, where a loop inside one block becomes slow.
    genvar part;
    generate
        for (part = 0; part < ENABLES; part = part + 1) begin : parts
            always @(posedge clk)
                if (write_enable[part])
                    words[write_address][part*PART +: PART] <= write_data[part*PART +: PART];
        end
    endgenerate
endmodule
