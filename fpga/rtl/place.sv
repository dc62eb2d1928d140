// Where a pixel is: base + y * line_stride + (x or x div 4) * pixel_stride + group.
// Latency: 10 cycles.
module place (
    input  logic        clk,
    input  logic [11:0] x,
    input  logic [11:0] y,
    input  logic [15:0] line_stride,
    input  logic [15:0] pixel_stride,
    input  logic [9:0]  group,
    input  logic [35:0] base,
    output logic [35:0] address
);
  logic [11:0] x_1, y_1;
  logic [15:0] line_stride_1, pixel_stride_1;
  logic [27:0] line_2, pixel_2, line_3, pixel_3, pixel_sum, group_sum;
  logic [9:0] group_5;
  logic [35:0] base_7;

  always_ff @(posedge clk) begin
    x_1 <= x;
    y_1 <= y;
    line_stride_1 <= line_stride;
    pixel_stride_1 <= pixel_stride;
    line_2 <= y_1 * line_stride_1;
    pixel_2 <= x_1 * pixel_stride_1;
    line_3 <= line_2;
    pixel_3 <= pixel_2;
  end
  delay #(.WIDTH(10), .CYCLES(5)) group_later (.clk, .rst(1'b0), .in(group), .out(group_5));
  delay #(.WIDTH(36), .CYCLES(7)) base_later (.clk, .rst(1'b0), .in(base), .out(base_7));
  add_pipelined #(.WIDTH(28)) add_pixel (.clk, .a(line_3), .b(pixel_3), .sum(pixel_sum));
  add_pipelined #(.WIDTH(28)) add_group (.clk, .a(pixel_sum), .b(28'(group_5)), .sum(group_sum));
  add_pipelined #(.WIDTH(36)) add_base (.clk, .a(36'(group_sum)), .b(base_7), .sum(address));
endmodule
