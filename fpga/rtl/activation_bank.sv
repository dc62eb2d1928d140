// One bank of the activation memory: ROWS x 16 bytes in pairs of URAM of 4,096 rows, with their
// output registers and one behind the multiplexer. Latency of a read: 3 cycles.
//
// Port a reads. Port b reads or writes, bytes apart. A row written is read from the next cycle on.
module activation_bank #(
    parameter int unsigned ROWS = 28672
) (
    input  logic         clk,
    input  logic         a_enable,
    input  logic [15:0]  a_row,
    output logic [127:0] a_data,
    input  logic         b_enable,
    input  logic         b_write,
    input  logic [15:0]  b_bytes,
    input  logic [15:0]  b_row,
    input  logic [127:0] b_in,
    output logic [127:0] b_data
);
  localparam int unsigned PAIRS = (ROWS + 4095) / 4096;

  localparam int unsigned BITS = PAIRS > 1 ? $clog2(PAIRS) : 1;

  logic [BITS-1:0] a_pair, b_pair;
  delay #(.WIDTH(2 * BITS), .CYCLES(2)) pair_later (
      .clk, .rst(1'b0), .in({a_row[12+:BITS], b_row[12+:BITS]}), .out({a_pair, b_pair})
  );

  logic [127:0] a_out[0:PAIRS-1];
  logic [127:0] b_out[0:PAIRS-1];
  genvar p, h;
  generate
    for (p = 0; p < PAIRS; p = p + 1) begin : g_pair
      logic a_here, b_here;
      assign a_here = a_enable && a_row[15:12] == 4'(p);
      assign b_here = b_enable && b_row[15:12] == 4'(p);
      for (h = 0; h < 2; h = h + 1) begin : g_half
        uram uram (
            .clk,
            .a_enable(a_here),
            .a_row(a_row[11:0]),
            .a_data(a_out[p][64*h+:64]),
            .b_enable(b_here),
            .b_write,
            .b_bytes(b_bytes[8*h+:8]),
            .b_row(b_row[11:0]),
            .b_in(b_in[64*h+:64]),
            .b_data(b_out[p][64*h+:64])
        );
      end
    end
  endgenerate

  always_ff @(posedge clk) begin
    a_data <= a_out[a_pair];
    b_data <= b_out[b_pair];
  end
endmodule
