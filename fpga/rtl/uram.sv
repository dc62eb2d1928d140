// One URAM288 with its output registers, as synthesis infers it. Latency of a read: 2 cycles.
// A port that is not enabled, or writes, keeps its output.
module uram (
    input  logic        clk,
    input  logic        a_enable,
    input  logic [11:0] a_row,
    output logic [63:0] a_data,
    input  logic        b_enable,
    input  logic        b_write,
    input  logic [7:0]  b_bytes,
    input  logic [11:0] b_row,
    input  logic [63:0] b_in,
    output logic [63:0] b_data
);
  (* ram_style = "ultra" *) logic [63:0] memory[0:4095];
  logic [63:0] a_read, b_read;

  always_ff @(posedge clk) begin
    if (a_enable) a_read <= memory[a_row];
    a_data <= a_read;
  end

  integer i;
  always_ff @(posedge clk) begin
    if (b_enable) begin
      if (b_write) begin
        for (i = 0; i < 8; i = i + 1)
          if (b_bytes[i]) memory[b_row][8*i+:8] <= b_in[8*i+:8];
      end else begin
        b_read <= memory[b_row];
      end
    end
    b_data <= b_read;
  end
endmodule
