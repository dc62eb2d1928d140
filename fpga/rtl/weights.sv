// Holds weights that came ahead and writes the next word, row by row, into the blocks.
//
// A word is 32 rows (wide: even blocks take rows 0 to 15, odd ones 16 to 31) or 16 (narrow: all
// blocks take all). It is written while the blocks work with the word before.
module weights #(
    parameter int unsigned BLOCKS = 2,
    parameter int unsigned DEPTH = 512  // rows
) (
    input  logic              clk,
    input  logic              rst,

    input  logic              request,        // for a burst, and its grant
    input  logic [4:0]        request_length,
    output logic              room,
    input  logic              grant,
    input  logic              data_valid,
    input  logic              data_narrow,
    input  logic [127:0]      data,

    output logic [BLOCKS-1:0] row_write,
    output logic [3:0]        row,
    output logic [127:0]      row_weights,
    output logic              complete,       // the next word is in the blocks and not promised yet
    input  logic              promise,        // the array begins a step with it
    input  logic              take            // the blocks make it the present one
);
  localparam int unsigned BITS = $clog2(DEPTH);

  logic valid, pop, narrow, full, promised;
  logic [127:0] weights_row;
  logic [4:0] next_row;
  logic [BITS:0] reserved;
  logic [BITS:0] unused_count;

  fifo #(.WIDTH(129), .DEPTH(DEPTH)) rows (
      .clk,
      .rst,
      .push(data_valid),
      .in({data_narrow, data}),
      .valid,
      .out({narrow, weights_row}),
      .pop,
      .count(unused_count)
  );
  // Bursts are asked for at least four cycles apart, so what is granted may count two later.
  logic [4:0] granted;
  logic has_room;
  assign room = request && has_room;
  always_ff @(posedge clk) begin
    granted <= grant ? request_length : '0;
    has_room <= reserved <= (BITS + 1)'(DEPTH - 32);
  end

  // The blocks' registers are free again in the cycle after `take`.
  assign pop = valid && !full;
  assign complete = full && !promised;

  always_ff @(posedge clk) begin
    if (rst) begin
      row_write <= '0;
      next_row <= '0;
      full <= 1'b0;
      promised <= 1'b0;
      reserved <= '0;
    end else begin
      reserved <= reserved + (BITS + 1)'(granted) - (BITS + 1)'(pop);
      row_write <= '0;
      if (pop) begin
        next_row <= next_row + 5'd1;
        if (narrow) row_write <= '1;
        else row_write <= next_row[4] ? {(BLOCKS / 2) {2'b10}} : {(BLOCKS / 2) {2'b01}};
        if (narrow && next_row == 5'd15) next_row <= '0;
        if (next_row == (narrow ? 5'd15 : 5'd31)) full <= 1'b1;
      end else if (take) full <= 1'b0;
      promised <= promise || (promised && !take);
    end
  end
  always_ff @(posedge clk) begin
    row <= next_row[3:0];
    row_weights <= weights_row;
  end
endmodule
