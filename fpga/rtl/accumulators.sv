// The sums of a block: 16 channels x 32 bits x two halves of TILE vectors. While one half
// accumulates, the other one is drained.
//
// Accumulation: the place is given two cycles before its sums; the new value is in the memory
// five cycles after the place was given, so a place may be given again after five cycles.
// Draining: the place is given, the values follow two cycles later.
module accumulators #(
    parameter int unsigned TILE = 256
) (
    input  logic                    clk,
    input  logic                    rst,
    input  logic                    add,
    input  logic                    add_first,    // the sums are the first ones: no old value
    input  logic                    add_half,
    input  logic [$clog2(TILE)-1:0] add_place,
    input  logic [319:0]            sums,         // two cycles later
    input  logic                    drain_half,
    input  logic [$clog2(TILE)-1:0] drain_place,
    output logic [511:0]            drained       // two cycles later
);
  localparam int unsigned BITS = $clog2(TILE);

  // The controls, later by 1 and 4 cycles.
  logic first_1, half_1, half_4, valid_4, drain_half_1;
  logic [BITS-1:0] place_4;
  delay #(.WIDTH(3)) to_1 (
      .clk, .rst, .in({add_first, add_half, drain_half}), .out({first_1, half_1, drain_half_1})
  );
  delay #(.WIDTH(1 + BITS), .CYCLES(4)) to_4 (
      .clk, .rst, .in({add_half, add_place}), .out({half_4, place_4})
  );
  delay #(.CYCLES(4), .RESET(1)) valid_to_4 (.clk, .rst, .in(add), .out(valid_4));

  logic [511:0] total;
  logic [511:0] read_0, read_1, value_0, value_1;
  logic [511:0] memory_0[0:TILE-1];
  logic [511:0] memory_1[0:TILE-1];
  logic [BITS-1:0] place_0, place_1;
  assign place_0 = add && !add_half ? add_place : drain_place;
  assign place_1 = add && add_half ? add_place : drain_place;

  always_ff @(posedge clk) begin
    if (valid_4 && !half_4) memory_0[place_4] <= total;
    read_0  <= memory_0[place_0];
    value_0 <= read_0;
  end
  always_ff @(posedge clk) begin
    if (valid_4 && half_4) memory_1[place_4] <= total;
    read_1  <= memory_1[place_1];
    value_1 <= read_1;
  end

  genvar i;
  generate
    for (i = 0; i < 16; i = i + 1) begin : g_lane
      // Copies of the selects, one a lane, spare them a fan-out of 512.
      (* keep = "true" *) logic first_2, half_2, drain_half_2;
      logic [31:0] old;
      logic [16:0] low;
      logic [15:0] high_old, high;
      logic [3:0] high_sum;
      logic [15:0] low_later;
      assign old = first_2 ? '0 : half_2 ? value_1[32*i+:32] : value_0[32*i+:32];
      assign drained[32*i+:32] = drain_half_2 ? value_1[32*i+:32] : value_0[32*i+:32];
      always_ff @(posedge clk) begin
        {first_2, half_2, drain_half_2} <= {first_1, half_1, drain_half_1};
        low <= {1'b0, old[15:0]} + {1'b0, sums[20*i+:16]};
        high_old <= old[31:16];
        high_sum <= sums[20*i+16+:4];
        high <= high_old + {{12{high_sum[3]}}, high_sum} + 16'(low[16]);
        low_later <= low[15:0];
      end
      assign total[32*i+:32] = {high, low_later};
    end
  endgenerate
endmodule
