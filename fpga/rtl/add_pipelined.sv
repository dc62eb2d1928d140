// A sum in chunks of 16 bits, a chunk a cycle, so that no carry chain is longer.
// Latency: ceil(WIDTH / 16) cycles.
module add_pipelined #(
    parameter int unsigned WIDTH = 32
) (
    input  logic             clk,
    input  logic [WIDTH-1:0] a,
    input  logic [WIDTH-1:0] b,
    output logic [WIDTH-1:0] sum
);
  localparam int unsigned CHUNKS = (WIDTH + 15) / 16;
  localparam int unsigned PADDED = 16 * CHUNKS;

  logic [PADDED:0] unused_bits;
  logic [PADDED-1:0] wide_a, wide_b, wide_sum;
  assign wide_a = PADDED'(a);
  assign wide_b = PADDED'(b);
  assign sum = wide_sum[WIDTH-1:0];
  assign unused_bits = {g_chunk[CHUNKS-1].result[16], wide_sum};

  genvar i;
  generate
    for (i = 0; i < CHUNKS; i = i + 1) begin : g_chunk
      logic [31:0] operands;
      logic [16:0] result;
      logic carry;
      delay #(.WIDTH(32), .CYCLES(i)) skew (
          .clk, .rst(1'b0), .in({wide_a[16*i+:16], wide_b[16*i+:16]}), .out(operands)
      );
      if (i == 0) begin : g_first
        assign carry = 1'b0;
      end else begin : g_next
        assign carry = g_chunk[i-1].result[16];
      end
      always_ff @(posedge clk)
        result <= {1'b0, operands[31:16]} + {1'b0, operands[15:0]} + 17'(carry);
      delay #(.WIDTH(16), .CYCLES(CHUNKS - 1 - i)) deskew (
          .clk, .rst(1'b0), .in(result[15:0]), .out(wide_sum[16*i+:16])
      );
    end
  endgenerate
endmodule
